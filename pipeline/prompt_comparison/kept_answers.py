"""Answers that a comparison was given, kept from one call to the next: what is kept needs no server.

The asking step keeps answers too, but only for the length of a shard, and it opens its server before it looks.
"""

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from datatrove.data import Document

from classifiers.errors import DataError
from pipeline.atomic_files import write_text
from rephrasers.servers.settings import ServerSettings

FILE = "kept.jsonl"
# What a request comes to: metadata with either of the two, as `AskLLM` leaves it.
_OUTCOMES = ("answer", "answer_error")


class KeptAnswers:
    """The outcomes of requests under FOLDER/kept.jsonl, by all that an answer depends on.

    A refusal of the server that is final ("rejected") is kept as well; time-outs and the like are asked again.
    Raises DataError for a file that is not ours.
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self._outcomes: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            try:
                rows = [json.loads(line) for line in io.StringIO(self.path.read_text(encoding="utf-8"))]
                self._outcomes = {row["key"]: row["outcome"] for row in rows}
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{self.path}: not as it was written ({error}); delete it to ask again") from error

    def get(self, key: str) -> dict[str, Any] | None:
        """The outcome that is kept under a key, or None."""
        return self._outcomes.get(key)

    def add(self, outcomes: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """Keep what is worth it; the file is replaced whole."""
        new = {key: outcome for key, outcome in outcomes if "answer" in outcome or _is_final(outcome)}
        if new.keys() - self._outcomes.keys():
            self._outcomes |= new
            lines = [json.dumps({"key": key, "outcome": outcome}) + "\n" for key, outcome in self._outcomes.items()]
            write_text(self.path, "".join(lines))


def ask_what_is_new(
    requests: list[Document],
    settings: ServerSettings,
    folder: Path,
    seed: int,
    on_answer: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """The outcome of each request ({"answer": ...} or {"answer_error": ...}), in order; no server where all are kept.

    requests: with `metadata["messages"]`; ids tell apart what is asked twice. on_answer: (answered, to be asked).
    """
    from rephrasers.ask import AskLLM, cache_name
    from rephrasers.servers.open_servers import model_of

    writer = cache_name(settings, model_of(settings), ())
    kept = KeptAnswers(folder)
    keys = [_key(writer, seed if settings.send_seeds else None, request) for request in requests]
    new = [request for key, request in zip(keys, requests, strict=True) if kept.get(key) is None]
    report = None if on_answer is None else lambda answered: on_answer(answered, len(new))
    asking = AskLLM(lambda request: request.metadata["messages"], settings, folder, (), report, seed=seed)
    answered = {request.id: request.metadata for request in asking.run(new)}
    fresh = {
        id_: {name: metadata[name] for name in _OUTCOMES if name in metadata} for id_, metadata in answered.items()
    }
    pairs = list(zip(keys, requests, strict=True))
    kept.add((key, fresh[request.id]) for key, request in pairs if request.id in fresh)
    return [fresh.get(request.id) or kept.get(key) or {} for key, request in pairs]


def _key(writer: str, seed: int | None, request: Document) -> str:
    depends_on = [writer, seed, request.id, request.metadata["messages"]]
    return hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()


def _is_final(outcome: dict[str, Any]) -> bool:
    return str(outcome.get("answer_error", "")).startswith("rejected")
