"""The datatrove step that asks an LLM about documents: every document out, in order, with its answer or the reason."""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from classifiers.errors import DataError
from rephrasers.answer_spill import AnswerSpill
from rephrasers.keyed_draws import request_seed
from rephrasers.models import ModelReference
from rephrasers.prompt_length import Messages, token_counter
from rephrasers.servers.open_servers import model_of, open_server, serving
from rephrasers.servers.settings import ServerSettings

RequestFunction = Callable[[Document], Messages | None]


def cache_name(settings: ServerSettings, model: ModelReference, prompt_hashes: Sequence[str]) -> str:
    """Name of the answers' folder: a hash of all that an answer depends on beside its document.

    datatrove's own cache key leaves out the model, so another model would be given the first one's answers.
    """
    depends_on = {
        "model": model.path_or_id if not model.is_local else model.description,
        "revision": model.revision,
        "sampling": [settings.temperature, settings.top_p, settings.max_tokens, settings.dtype, settings.stop],
        "prompts": sorted(prompt_hashes),
    }
    return "answers-" + hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]


class AskLLM(PipelineStep):
    """Asks an LLM for each document for which `request_fn` returns chat messages (None: the document passes unasked).

    Yields every input document once, in input order. One that was asked has either
    `metadata["answer"] = {"text", "finish_reason", "usage", "retries"}` or `metadata["answer_error"]`, a reason:
    "too_long: N tokens > M", "rejected: HTTP 400", "timeout: ...", "connection_lost: ...", "server_error: ...", or an answer
    that is none: "invalid_json: ...", "no_choices: ...", "no_content: ...", "not_a_completion: ...", "oversized: ...". Where
    it was sent, `metadata["answer_retries"]`. retries: how often the request was sent again; faults (`answer_faults`), where
    there were any: why, by kind.

    `counts` says what happened so far: answered, not_asked, completion_tokens, server_restarts, answer_errors,
    `answer_error_<reason>`, `fault_<kind>` (tries that went wrong and were mended or given up). The same stands in datatrove's
    statistics. What came before a kill counts too, but for requests that had no answer then.

    `request_fields` go into each request (`servers.constrained`). Where they ask for log-probabilities and the server
    gives them, the answer has "token_logprobs": for each of its first tokens the candidates as [token, logprob].

    Each answer is on disk (sqlite under `work_folder`) before its document counts as done: after a kill, the same
    step on the same folder asks only what is not answered. The caller deletes `work_folder` once the shard is
    committed. Uses the server that an enclosing `serving` block keeps open, else starts one for this task, and none
    where nothing is to be asked. Memory does not grow with answers or texts, only with ids.

    `seed`, where the settings allow it (`send_seeds`), gives each request a sampling seed of its own, drawn from it and the
    document's id; None: none is sent.

    `on_answer` is told, after each answer, how many documents of the shard are answered so far (for progress).

    Raises DataError for an id that occurs twice and for any document without an answer at the end, ModelError for a
    server that cannot start, dies, or refuses the key or model.
    """

    name = "Ask LLM"
    type = "Rephraser"

    def __init__(
        self,
        request_fn: RequestFunction,
        settings: ServerSettings,
        work_folder: str | Path,
        prompt_hashes: Sequence[str] = (),
        on_answer: Callable[[int], None] | None = None,
        request_fields: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ):
        super().__init__()
        self.request_fn = request_fn
        self.settings = settings
        self.work_folder = Path(work_folder)
        self.prompt_hashes = tuple(prompt_hashes)
        self.on_answer = on_answer
        self.request_fields = dict(request_fields or {})
        self.seed = seed if settings.send_seeds else None
        self.counts: Counter[str] = Counter()

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        """See the class. All documents are asked before the first one is yielded."""
        model = model_of(self.settings)
        cache_folder = self.work_folder / cache_name(self.settings, model, self.prompt_hashes)
        with AnswerSpill(cache_folder / f"{rank:05d}" / "spill") as spill:
            requests = self._requests(data or (), spill, model)
            first = next(requests, None)
            if first is not None:
                self._ask(itertools.chain([first], requests), spill, cache_folder, rank)
            yield from self._answered(spill)

    def _requests(self, data: DocumentsPipeline, spill: AnswerSpill, model: ModelReference) -> Iterator[Document]:
        """Spills every document; yields, for those to be asked, what the runner needs and no more."""
        count_tokens = None
        seen: set[bytes] = set()
        for document in data:
            key = hashlib.blake2b(document.id.encode(), digest_size=16).digest()
            if key in seen:
                raise DataError(f"document id {document.id!r} occurs twice in this shard: answers are kept by id")
            seen.add(key)
            index = spill.add(document)
            messages = self.request_fn(document)
            if messages is None:
                self._count("not_asked")
                spill.put(index, {})
                continue
            if count_tokens is None:
                count_tokens = token_counter(self.settings, model)
            tokens, limit = count_tokens(messages), self.settings.max_prompt_tokens
            if tokens > limit:
                spill.put(index, {"answer_error": f"too_long: {tokens} tokens > {limit}"})
                continue
            seed = {} if self.seed is None else {"seed": request_seed(self.seed, document.id)}
            yield Document(text="", id=document.id, metadata={"index": index, "messages": messages, **seed})

    def _ask(self, requests: Iterator[Document], spill: AnswerSpill, cache_folder: Path, rank: int) -> None:
        from rephrasers.answer_runner import AnswerRunner, SpillWriter

        writer = SpillWriter(spill, self.on_answer)
        with serving(self.settings, self.work_folder / f"server-{rank:05d}.log"):
            server = open_server(self.settings)
            assert server is not None
            runner = AnswerRunner(self.settings, server, cache_folder, writer, self.request_fields)
            runner.ask_all(requests, rank)
        if runner.restarts:
            self._count("server_restarts", runner.restarts)
        if spill.answered != len(spill):
            lost = len(spill) - spill.answered
            raise DataError(f"{lost} of {len(spill)} documents got neither an answer nor a reason")

    def _answered(self, spill: AnswerSpill) -> Iterator[Document]:
        for document, answer in spill.read():
            if answer is None:
                raise DataError(f"document {document.id} got neither an answer nor a reason")
            document.metadata.update(answer)
            faults = answer.get("answer_faults") or answer.get("answer", {}).get("faults") or {}
            for kind, times in faults.items():
                self._count(f"fault_{kind}", times)
            if "answer_error" in answer:
                reason = answer["answer_error"].split(":")[0]
                self._count("answer_errors")
                self._count(f"answer_error_{reason}")
            elif "answer" in answer:
                self._count("answered")
                self._count("completion_tokens", answer["answer"]["usage"].get("completion_tokens") or 0)
            yield document

    def _count(self, name: str, times: int = 1) -> None:
        self.counts[name] += times
        self.stat_update(name, value=times)
