"""datatrove's InferenceRunner with its holes closed: durable answers, no lost rows, no document text in errors.

Imported only when there is something to ask (its import takes seconds).
"""

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.inference.checkpointing import CheckpointManager
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.inference.types import InferenceError, InferenceResult, ServerError

from classifiers.errors import SafetroveError
from rephrasers.answer_cache import AnswerCache
from rephrasers.answer_spill import AnswerSpill
from rephrasers.servers.answers import extras_of_faults, take_extras
from rephrasers.servers.endpoint import GuardedClient, RequestFailedError
from rephrasers.servers.open_servers import Serving
from rephrasers.servers.sampling import cut_at_stop
from rephrasers.servers.settings import ServerSettings

RESULT_KEY = "result"
# How a final refusal reads, also inside the longer text under which the request cache keeps it.
_REJECTED = re.compile(r"rejected: HTTP \d+")


class SpillWriter:
    """Takes the place of datatrove's disk writer: an answer goes to the spill file."""

    def __init__(self, spill: AnswerSpill, on_answer: Callable[[int], None] | None = None):
        self.spill = spill
        self.on_answer = on_answer

    def __enter__(self) -> "SpillWriter":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def write(self, document: Document, **_: Any) -> None:
        """Stores the one result of a document under its index."""
        self.spill.put(document.metadata["index"], document.metadata[RESULT_KEY][0])
        if self.on_answer is not None:
            self.on_answer(self.spill.answered)


class AnswerRunner(InferenceRunner):
    """Asks one server; keeps every answer in a request cache that the caller deletes."""

    def __init__(
        self,
        settings: ServerSettings,
        server: Serving,
        cache_folder: Path,
        writer: SpillWriter,
        request_fields: Mapping[str, Any],
    ):
        config = InferenceConfig(
            server_type="endpoint",
            model_name_or_path=server.model_name,
            model_max_context=settings.max_context,
            endpoint_url=server.base_url,
            max_concurrent_generations=settings.concurrency,
            # Further documents stand ready, so that no slot of the server waits for the next prompt to be made.
            max_concurrent_documents=2 * settings.concurrency + 8,
            metric_interval=600,
            server_start_max_retries=0,
        )
        super().__init__(rollout_fn=self._ask, config=config, output_writer=writer, metadata_key=RESULT_KEY)
        self._settings = settings
        self._server = server
        self._request_fields = dict(request_fields)
        # The cache alone, without chunk files: a chunk that ends would delete its answers from the cache.
        self.request_cache = AnswerCache(str(cache_folder))
        self.checkpoint_manager = CheckpointManager(None)

        self.restarts = 0
        self._slots = asyncio.Semaphore(settings.concurrency)

    def _init_server(self, rank: int) -> GuardedClient:
        self._guarded = GuardedClient(self.config, rank, self._settings, self._server)
        return self._guarded

    async def _ask(self, document: Document, generate: Any) -> dict[str, Any]:
        """One document's answer, or the reason why there is none. Parameters are in the payload, hence in its hash."""
        try:
            result: InferenceResult = await generate(self._payload(document.metadata))
        except InferenceError as error:
            rejected = _REJECTED.search(str(error.error))
            extras = extras_of_faults(error.faults if isinstance(error, RequestFailedError) else {})
            reason = rejected.group() if rejected else str(error.error)
            return {"answer_error": reason, **{f"answer_{key}": value for key, value in extras.items()}}
        usage, extras = take_extras(result.usage)
        text, finish_reason = cut_at_stop(result.text, result.finish_reason, self._settings.stop)
        return {"answer": {"text": text, "finish_reason": finish_reason, "usage": usage, **extras}}

    def _payload(self, request: dict[str, Any]) -> dict[str, Any]:
        messages = request["messages"]
        if "questions" in self._request_fields:
            return {"state": messages[-1]["content"], **self._request_fields}
        return {
            "messages": messages,
            "max_tokens": self._settings.max_tokens,
            "temperature": self._settings.temperature,
            "top_p": self._settings.top_p,
            **({"stop": list(self._settings.stop)} if self._settings.stop else {}),
            **({"seed": request["seed"]} if "seed" in request else {}),
            **self._request_fields,
        }

    async def _cached_request(self, payload: dict[str, Any], *args: Any, **kwargs: Any) -> InferenceResult:
        """A slot is free again when its answer is on disk: a kill costs no more answers than requests were in flight."""
        async with self._slots:
            return await super()._cached_request(payload, *args, **kwargs)

    async def _save_document(self, document: Document, output_writer_context: SpillWriter, *_: Any, **__: Any) -> None:
        """datatrove logs a failed write and asks on; here it ends the run: what follows could not be written either."""
        output_writer_context.write(document)

    async def _cleanup(
        self, metrics_task: asyncio.Task, tasks_pool: set[asyncio.Task], delete_cache_file: bool, timeout: int = 30
    ) -> None:
        await super()._cleanup(metrics_task, tasks_pool, delete_cache_file=False, timeout=timeout)

    async def metrics_reporter(self, interval: int = 600) -> None:
        """Nothing periodic: the step's statistics say it once."""

    def ask_all(self, documents: Iterable[Document], rank: int) -> None:
        """Asks for every document; each has `metadata["index"]`, its place in the spill, `metadata["messages"]`,
        and where the request has a seed of its own `metadata["seed"]`.

        Raises the first error that is about the run and not about one document."""
        try:
            asyncio.run(self.run_async(documents, rank))
        except (ServerError, InferenceError) as error:
            cause = _user_error(error)
            if cause is None:
                raise
            raise cause from None
        finally:
            self.restarts = self._guarded.restarts.made
            self._release_cache()

    def _release_cache(self) -> None:
        """Ends the cache's thread where a signal cut the clean-up short: it would keep the process from exiting."""
        connection = self.request_cache._conn
        if connection is not None:
            connection.stop()


def _user_error(error: BaseException | None) -> SafetroveError | None:
    """The error meant for the user inside datatrove's wrappers, or None."""
    while isinstance(error, ServerError | InferenceError):
        inner = error.error
        error = inner if isinstance(inner, BaseException) else error.__cause__
    return error if isinstance(error, SafetroveError) else None
