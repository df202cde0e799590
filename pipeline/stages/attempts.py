"""Rounds of one shard's drafts: ask for all, verify, ask once more for what failed, until nothing fails or no attempt is left.

Everything is inside the draft stage's shard: the server stays open, the answers of each round are in a folder of their
own under the shard's work folder, and a restart replays them. The verdicts here only choose whom to ask again; what is
trained on is for `verify-<kind>` to decide, on its own scores. Therefore the last round is not verified here.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from pipeline.stages.verification import BATCH_DRAFTS
from rephrasers.verify import Verdict

UNANSWERED = "unanswered"
"""The reason of a further attempt to which no answer came; the draft before it stands."""


@dataclass
class Tried:
    """A document and what came of it so far.

    document: id, text, metadata as they came in. row: the last draft; None before the first. error: why the first
    attempt has no answer. attempts: number, style, seed and reasons of each; reasons None: not verified here.
    failed: the draft failed, and another attempt is left.
    """

    document: dict[str, Any]
    row: dict[str, Any] | None = None
    error: str | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    failed: bool = True


Ask = Callable[[int, Iterator[Document], int], Iterator[Document]]
"""(attempt, documents, rank) -> the answered documents in the same order; what it drops is missing."""


class Attempts(PipelineStep):
    """Yields each document once, in order, with `metadata["row"]` (its last draft, or None) and `answer_error`.

    last: how many attempts there may be. row_of: the draft's row of an answered document, with style and request_seed.
    verdicts: of (document, row) pairs, for all rounds but the last. folder: for the rounds' files; the caller deletes it.
    """

    type = "Rephraser"

    def __init__(
        self,
        last: int,
        folder: Path,
        ask: Ask,
        row_of: Callable[[int, Document], dict[str, Any]],
        verdicts: Callable[[list[tuple[Document, dict[str, Any]]]], list[Verdict]],
    ):
        super().__init__()
        self.last, self.folder, self.ask, self.row_of, self.verdicts = last, folder, ask, row_of, verdicts

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(0, (Tried(_values(document)) for document in data or ()))
        attempt = failed = 1
        while failed and attempt <= self.last:
            failed = self._write(attempt, self._round(attempt, rank))
            attempt += 1
        for tried in self._settled(1, attempt - 1):
            document = Document(**tried.document)
            document.metadata |= {"row": tried.row, "answer_error": tried.error}
            yield document

    def _round(self, attempt: int, rank: int) -> Iterator[Tried]:
        asked = (Document(**tried.document) for tried in self._failed(attempt - 1))
        before = self._failed(attempt - 1)
        for batch in batched(self.ask(attempt, asked, rank), BATCH_DRAFTS):
            # what `ask` dropped is counted there and skipped here
            pairs = [(next(t for t in before if t.document["id"] == answered.id), answered) for answered in batch]
            after = [self._answered(attempt, tried, answered) for tried, answered in pairs]
            if attempt < self.last:
                self._judge([tried for tried in after if tried.failed])
            for tried in after:
                tried.failed &= attempt < self.last
                yield tried

    def _answered(self, attempt: int, tried: Tried, answered: Document) -> Tried:
        if "answer_error" in answered.metadata:
            if tried.row is None:
                return Tried(tried.document, error=answered.metadata["answer_error"], failed=False)
            entry = {"attempt": attempt, "style": answered.metadata["prompt"][0], "seed": None, "reasons": [UNANSWERED]}
            return Tried(tried.document, tried.row, None, [*tried.attempts, entry], failed=False)
        row = self.row_of(attempt, answered)
        entry = {"attempt": attempt, "style": row["style"], "seed": row["attempt_seed"], "reasons": None}
        return Tried(tried.document, row, None, [*tried.attempts, entry])

    def _judge(self, tried: list[Tried]) -> None:
        verdicts = self.verdicts([(Document(**one.document), one.row) for one in tried if one.row is not None])
        for one, verdict in zip(tried, verdicts, strict=True):
            one.attempts[-1]["reasons"] = list(verdict.reasons)
            one.failed = not verdict.accepted

    def _settled(self, attempt: int, last: int) -> Iterator[Tried]:
        """What the rounds from `attempt` on made of the documents, in order, without what a later round dropped."""
        later = self._settled(attempt + 1, last) if attempt < last else iter(())
        following = next(later, None)
        for tried in self._read(attempt):
            if not tried.failed:
                yield _with_attempts(tried)
            elif following is not None and following.document["id"] == tried.document["id"]:
                yield following
                following = next(later, None)

    def _file(self, attempt: int) -> Path:
        return self.folder / f"attempt-{attempt}.jsonl"

    def _write(self, attempt: int, rows: Iterator[Tried]) -> int:
        failed = 0
        with self._file(attempt).open("w", encoding="utf-8") as file:
            for tried in rows:
                failed += tried.failed
                file.write(json.dumps(vars(tried)) + "\n")
        return failed

    def _read(self, attempt: int) -> Iterator[Tried]:
        with self._file(attempt).open(encoding="utf-8") as file:
            for line in file:
                yield Tried(**json.loads(line))

    def _failed(self, attempt: int) -> Iterator[Tried]:
        return (tried for tried in self._read(attempt) if tried.failed)


def _values(document: Document) -> dict[str, Any]:
    return {"id": document.id, "text": document.text, "metadata": document.metadata}


def _with_attempts(tried: Tried) -> Tried:
    if tried.row is not None:
        tried.row["attempts"] = tried.attempts
    return tried
