"""A model behind an LLM server: prompts go as chats, answers come back through the guarded client."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datatrove.data import Document

from classifiers.errors import RecipeError
from evaluation.generation.settings import GenerationSettings
from evaluation.suites.loading import SuitePrompt
from rephrasers.servers import ServerSettings
from rephrasers.servers.open_servers import model_of


class ServerModel:
    """Answers of a server (`rephrasers.servers`): its own chat template, its own decoding."""

    name = "server"

    def __init__(self, server: ServerSettings, generation: GenerationSettings) -> None:
        self._generation = generation
        self.server = server.model_copy(
            update={
                "temperature": generation.temperature,
                "top_p": generation.top_p,
                "max_tokens": generation.max_new_tokens,
            }
        )
        if self.server.max_tokens >= self.server.max_context:
            raise RecipeError(
                f"generation.max_new_tokens {self.server.max_tokens} leaves no room for a prompt in server.max_context "
                f"{self.server.max_context}"
            )
        self._model = model_of(self.server)

    def model_identity(self) -> dict[str, str]:
        """What identifies the model, as far as a server tells."""
        return {"model": self._model.description, "revision": self._model.revision}

    def identity(self) -> dict[str, Any]:
        """What of the decoding the answers depend on."""
        return {"decoder": self.name, **self._generation.of_answer()}

    def answers(
        self,
        prompts: Iterable[tuple[str, SuitePrompt]],
        system: str | None,
        work_folder: Path,
        on_answer: Callable[[int], None] | None = None,
    ) -> dict[str, str | None]:
        """{key: answer} for (key, prompt); None where the server gave none. Durable under `work_folder` until it is
        deleted. Raises as `rephrasers.ask.AskLLM` does."""
        from rephrasers.ask import AskLLM

        def messages(document: Document) -> list[dict[str, str]]:
            first = [{"role": "system", "content": system}] if system is not None else []
            return [*first, {"role": "user", "content": document.text}]

        step = AskLLM(messages, self.server, work_folder, [system or ""], on_answer, seed=self._generation.seed)
        documents = (Document(text=prompt.text, id=key) for key, prompt in prompts)
        return {document.id: _text(document) for document in step.run(documents)}


def _text(document: Document) -> str | None:
    answer = document.metadata.get("answer")
    return None if answer is None else str(answer["text"])
