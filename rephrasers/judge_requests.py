"""The LLM judge asked outside a run: settings in, one judgement a text out, through the same client as the stages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document

from classifiers.judge import (
    LEVEL_DIGITS,
    Judgement,
    JudgeMode,
    answer_schema,
    decision_question,
    judge_messages,
    judge_sha256,
    read_answer,
)
from rephrasers.prompt_files import neutralise
from rephrasers.servers import ServerSettings, choose_server
from rephrasers.servers.constrained import choice_fields, json_fields, logprob_fields, score_question_fields


@dataclass(frozen=True)
class AskedText:
    """One text's judgement, how often its request was sent again, and why there is no answer where there is none."""

    id: str
    judgement: Judgement
    retries: int
    error: str | None


@dataclass(frozen=True)
class JudgeRequests:
    """How a judge is asked. `constrained`: hold the server to the form of the answer; false for one that rejects the fields.
    `maximum_characters` of a text; a longer one is sampled evenly."""

    server: ServerSettings
    mode: JudgeMode
    constrained: bool = True
    maximum_characters: int = 4000

    def asks_decisions(self) -> bool:
        """`transformers serve` gives log-probabilities at its decision endpoint alone, one request at a time."""
        return self.mode == "digit" and choose_server(self.server) == "transformers"

    def settings(self) -> ServerSettings:
        """The server as these requests need it."""
        if self.asks_decisions():
            return self.server.model_copy(update={"continuous_batching": False, "concurrency": 1})
        return self.server

    def fields(self) -> dict[str, Any]:
        """What each request has beside the messages."""
        if self.asks_decisions():
            return score_question_fields(*decision_question())
        if self.mode == "digit":
            return choice_fields(LEVEL_DIGITS) if self.constrained else logprob_fields()
        return json_fields("judgement", answer_schema()) if self.constrained else {}


def ask_judge(
    texts: Iterable[tuple[str, str]],
    requests: JudgeRequests,
    work_folder: Path,
    on_answer: Callable[[int], None] | None = None,
) -> list[AskedText]:
    """The judgement of each (id, text), in order. Answers are durable under `work_folder`, which the caller deletes: after
    a kill the same call asks only for what is not answered. `on_answer` is told how many are.

    Uses the server that an enclosing `serving` block keeps open, else starts one. Raises as `AskLLM` does.
    """
    from rephrasers.ask import AskLLM

    def messages(document: Document) -> list[dict[str, str]]:
        return judge_messages(neutralise(document.text), requests.maximum_characters, requests.mode)

    hashes = [judge_sha256(requests.mode)]
    step = AskLLM(messages, requests.settings(), work_folder, hashes, on_answer, requests.fields())
    documents = (Document(text=text, id=identifier) for identifier, text in texts)
    return [_asked(document) for document in step.run(documents)]


def _asked(document: Document) -> AskedText:
    answer, error = document.metadata.get("answer"), document.metadata.get("answer_error")
    retries = answer["retries"] if answer else document.metadata.get("answer_retries", 0)
    return AskedText(document.id, read_answer(answer), retries, error)
