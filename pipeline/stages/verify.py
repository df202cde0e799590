"""Stages `verify-<kind>`: every draft is scored again and checked; only what passes is a synthetic text."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from classifiers.errors import DataError
from pipeline.atomic_files import file_sha256
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.dedup import document_table
from pipeline.stages.score import ClassifierStage, ensemble_levels
from pipeline.stages.synthesis import DRAFT_SCHEMA, STAGE_OF_KIND, draft_table, synthetic_table
from pipeline.tables import ReadShard, WriteShard, read_rows
from rephrasers.checks import phrases
from rephrasers.refuse import Turn
from rephrasers.verify import Draft, DraftKind, verify_all

SYNTHETIC_SCHEMA = DRAFT_SCHEMA.append(pa.field("score_after", pa.int8()))
BATCH_DRAFTS = 64


class VerifyStage(Stage):
    """Scores with every classifier of the recipe that needs no server (never the cascade that routed)."""

    def __init__(self, kind: DraftKind, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__(f"verify-{kind}", recipe, run, shards)
        self.kind = kind
        names = [name for name in recipe.score.classifiers if name != "judge"]
        self.classifiers = [ClassifierStage(name, recipe, run, shards) for name in names or ["fasttext", "embedding"]]

    def settings(self) -> dict[str, Any]:
        return {
            "classifiers": {stage.classifier: stage.settings() for stage in self.classifiers},
            "phrases": file_sha256(Path(phrases.__file__).with_name("phrases.yaml")),
        }

    def _sources(self, shard: int) -> tuple[ShardRef, Path]:
        """Where the texts lie that the drafts were written from."""
        if self.kind == "moral":
            return ("refuse", shard), draft_table(self.run, "refusal", shard)
        return ("documents", shard), document_table(self.run, shard)

    def inputs(self, shard: int) -> list[ShardRef]:
        return [(STAGE_OF_KIND[self.kind], shard), self._sources(shard)[0]]

    def main_input(self, shard: int) -> str:
        return self.run.relative(draft_table(self.run, self.kind, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        assert self.recipe.synthesis is not None
        return [
            ReadShard(task, draft_table(self.run, self.kind, task.shard)),
            JoinSources(self._sources(task.shard)[1], self.recipe.synthesis.source_characters),
            Verify(task, self.kind, lambda texts: ensemble_levels(self.classifiers, texts)),
            WriteShard(task, synthetic_table(self.run, self.kind, task.shard), SYNTHETIC_SCHEMA, _row),
        ]


def _row(document: Document) -> dict[str, Any]:
    kept = {name: document.metadata.get(name) for name in SYNTHETIC_SCHEMA.names}
    return {**kept, "id": document.id, "text": document.text}


class JoinSources(PipelineStep):
    """Put beside each draft the text that the writer was shown. Both tables are in document order."""

    type = "📖 - READER"

    def __init__(self, table: Path, characters: int):
        super().__init__()
        self.table, self.characters = table, characters

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        sources: Iterator[dict[str, Any]] = read_rows(self.table, ["id", "text"])
        for document in data:
            for source in sources:
                if source["id"] == document.metadata["source_id"]:
                    break
            else:
                raise DataError(
                    f"{self.table}: draft {document.id} was written from {document.metadata['source_id']}, which is "
                    "not there or not in order; rerun the stage that wrote the drafts"
                )
            document.metadata["source_text"] = source["text"][: self.characters]
            yield document


class Verify(PipelineStep):
    """Drop each draft under the first rule that it breaks; all broken rules are counted in the metrics."""

    type = "🔻 - FILTER"

    def __init__(self, task: ShardTask, kind: DraftKind, score_texts: Callable[[list[str]], list[int]]):
        super().__init__()
        self.task, self.kind, self.score_texts = task, kind, score_texts

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        tried: Counter[str] = Counter()
        accepted: Counter[str] = Counter()
        broken: Counter[str] = Counter()
        for batch in batched(data, BATCH_DRAFTS):
            verdicts = verify_all([_draft(self.kind, document) for document in batch], self.score_texts)
            for document, verdict in zip(batch, verdicts, strict=True):
                tried[document.metadata["style"]] += 1
                broken.update(verdict.reasons)
                if not verdict.accepted:
                    self.task.drop(verdict.reasons[0])
                    continue
                accepted[document.metadata["style"]] += 1
                document.metadata["score_after"] = verdict.score_after
                yield document
        self.task.metrics["yield_by_style"] = {style: [accepted[style], n] for style, n in sorted(tried.items())}
        self.task.metrics["rules_broken"] = dict(sorted(broken.items()))


def _draft(kind: DraftKind, document: Document) -> Draft:
    metadata = document.metadata
    return Draft(
        kind=kind,
        text=document.text,
        turns=tuple(Turn(turn["role"], turn["text"]) for turn in metadata["turns"] or ()),
        source_text=metadata["source_text"],
        source_score=metadata["score_before"],
        style=metadata["style"],
        finish_reason=metadata["finish_reason"],
        source_language=metadata["language"],
    )
