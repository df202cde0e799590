"""What stages that ask a language model have in common: one shard at a time, one server a worker, its identity."""

from contextlib import AbstractContextManager
from typing import Any

from pipeline.stage import Stage
from rephrasers.embedded_writer import CONVERSION_VERSION, EMBEDDED_NAME, GGUF_SHA256
from rephrasers.servers.settings import ServerSettings

_OUTPUT_KEYS = {"model", "max_context", "max_tokens", "temperature", "top_p", "dtype", "stop", "send_seeds"}


def output_settings(settings: ServerSettings) -> dict[str, Any]:
    """The keys of a server that decide what it answers, with the model's revision."""
    return {**settings.model_dump(mode="json", include=_OUTPUT_KEYS), "revision": model_revision(settings)}


def model_revision(settings: ServerSettings) -> str:
    """The revision of the weights. The embedded writer's is known without converting it."""
    if settings.model == EMBEDDED_NAME:
        return f"{GGUF_SHA256[:16]}-v{CONVERSION_VERSION}"
    from rephrasers.servers.open_servers import model_of

    return model_of(settings).revision


class LanguageModelStage(Stage):
    """A stage whose worker keeps a server open around all its shards."""

    @property
    def llm(self) -> ServerSettings:
        """The server that this stage asks."""
        assert self.recipe.synthesis is not None
        return self.recipe.synthesis.llm

    @property
    def workers(self) -> int:
        return 1

    def worker_context(self) -> AbstractContextManager[Any]:
        from rephrasers.servers.open_servers import serving

        return serving(self.llm, self.run.logs(self.name) / "server.log")
