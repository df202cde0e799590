"""The documents that styles are compared on: from a run, from JSON lines, or given; drawn by id, never a never_train one."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.utils.batching import batched

from classifiers.ensemble import combine
from classifiers.errors import DataError
from classifiers.never_train import never_train_reason
from classifiers.score import Score
from pipeline.run_folder import RunFolder
from pipeline.stages.dedup import document_table
from pipeline.stages.score import ClassifierStage, score_table
from pipeline.tables import read_rows
from rephrasers.keyed_draws import keyed_uniforms
from rephrasers.language import identify_language

SCORED_AT_ONCE = 16


@dataclass(frozen=True)
class SourceDocument:
    """A document to be written about. score: its safety level 0-5, or None where it has still to be scored."""

    id: str
    text: str
    score: int | None
    language: str


class Ensemble:
    """The classifiers that verification uses: those of a recipe, else the two that ship with safetrove."""

    def __init__(self, stages: Sequence[ClassifierStage] = ()):
        if stages:
            self.members: dict[str, Any] = {stage.classifier: stage.load() for stage in stages}
            return
        from classifiers.embedding import EmbeddingClassifier
        from classifiers.fasttext_classifier import FastTextClassifier

        self.members = {"fasttext": FastTextClassifier.load(), "embedding": EmbeddingClassifier.load()}

    def scores(self, texts: list[str]) -> list[dict[str, Score | None]]:
        """For each text the score of each member."""
        columns = [member.score(texts) for member in self.members.values()]
        return [dict(zip(self.members, row, strict=True)) for row in zip(*columns, strict=True)]

    def levels(self, texts: list[str]) -> list[int]:
        """The ensemble's level of each text."""
        return [combine(scores).score for scores in self.scores(texts)]


def run_documents(run: RunFolder) -> list[SourceDocument]:
    """The documents of a run's finished shards with their final scores, never_train ones left out.

    Raises DataError where no shard is scored.
    """
    found = []
    for table in sorted((run.root / "scores" / "final").glob("*.parquet")):
        shard = int(table.stem)
        columns = ["id", "text", "language"]
        rows = zip(
            read_rows(document_table(run, shard), columns), read_rows(score_table(run, "final", shard)), strict=True
        )
        found += [
            SourceDocument(row["id"], row["text"], score["score"], row["language"])
            for row, score in rows
            if not score["never_train"]
        ]
    if not found:
        raise DataError(f"{run.root}: no shard of this run is scored yet; run it up to the stage score-final first")
    return found


def file_documents(paths: Iterable[Path]) -> Iterator[SourceDocument]:
    """The rows of JSON-lines files: `text`, and optionally `id`, `score` (0-5), `language`. Raises DataError at a wrong one."""
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file; give JSON lines with `text`, or a run folder")
        with path.open(encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield _document(line, f"{path.name}:{number}", f"{path}, line {number}")


def _document(line: str, default_id: str, where: str) -> SourceDocument:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f"{where}: expected a JSON object with a string `text`")
    score = row.get("score")
    if score is not None and score not in range(6):
        raise DataError(f"{where}: `score` must be a whole number from 0 to 5, got {score!r}")
    language = row.get("language") or identify_language(row["text"])[0]
    return SourceDocument(str(row.get("id", default_id)), row["text"], score, str(language))


def draw_documents(
    documents: Iterable[SourceDocument], number: int, wanted: Sequence[int], seed: int, ensemble: Callable[[], Ensemble]
) -> list[SourceDocument]:
    """`number` documents of the wanted scores, in an order drawn by id (stream "compare"); fewer where there are no more.

    Those without a score are scored, and all that is chosen is checked against never_train. Raises DataError where none
    is left.
    """
    order = sorted(documents, key=lambda document: float(keyed_uniforms(seed, "compare", document.id, 1)[0]))
    candidates = [document for document in order if document.score is None or document.score in wanted]
    chosen: list[SourceDocument] = []
    for batch in batched(candidates, SCORED_AT_ONCE):
        for document, scores in zip(batch, ensemble().scores([d.text for d in batch]), strict=True):
            score = combine(scores).score if document.score is None else document.score
            if score in wanted and never_train_reason(document.text, scores) is None:
                chosen.append(SourceDocument(document.id, document.text, score, document.language))
        if len(chosen) >= number:
            break
    if not chosen:
        levels = ", ".join(map(str, wanted))
        raise DataError(f"none of {len(order)} documents has a score of {levels}; give others, or other --scores")
    return chosen[:number]
