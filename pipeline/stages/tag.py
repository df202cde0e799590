"""Stage `tag`: unsafe originals with the word slots of their harmfulness tags. The text itself is not changed."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline.recipe import Recipe, Tag
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.dedup import document_table
from pipeline.stages.score import score_table
from pipeline.tables import ReadShard, WriteShard
from pipeline.tagging import tag_slots
from pipeline.words import word_spans

TAGGED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("slots", pa.list_(pa.int32())),  # 1-based indices of the words before which a tag goes
        ("words", pa.int32()),
        ("score", pa.int8()),
        ("category", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("language", pa.string()),
    ]
)


def tagged_table(run: RunFolder, shard: int) -> Path:
    """Unsafe originals of one shard, with their slots."""
    return run.root / f"tagged/{shard:05d}.parquet"


def drop_by_score(task: ShardTask, document: Document, low: int, high: int) -> bool:
    """Count and drop a document that is never_train, or whose final score is outside [low, high]."""
    final = document.metadata["final"]
    if final["never_train"] is not None:
        task.drop("never_train")
    elif not low <= final["score"] <= high:
        task.drop(f"score_{final['score']}")
    else:
        return False
    return True


class TagStage(Stage):
    """A pure function of (seed, document id) and the document's number of words."""

    def __init__(self, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__("tag", recipe, run, shards)

    def settings(self) -> dict[str, Any]:
        return {"seed": self.recipe.seed, **self.recipe.tag.model_dump()}

    def inputs(self, shard: int) -> list[ShardRef]:
        return [("documents", shard), ("score-final", shard)]

    def main_input(self, shard: int) -> str:
        return self.run.relative(document_table(self.run, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        return [
            ReadShard(
                task, document_table(self.run, task.shard), {"final": score_table(self.run, "final", task.shard)}
            ),
            DrawTags(task, self.recipe.tag, self.recipe.seed),
            WriteShard(task, tagged_table(self.run, task.shard), TAGGED_SCHEMA, lambda d: d.metadata["tagged"]),
        ]


class DrawTags(PipelineStep):
    """Unsafe documents with their slots; all others are dropped under their score."""

    type = "🏷 - TAG"

    def __init__(self, task: ShardTask, tag: Tag, seed: int):
        super().__init__()
        self.task, self.tag, self.seed = task, tag, seed

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        tags = 0
        for document in data:
            if drop_by_score(self.task, document, self.tag.minimum_score, 5):
                continue
            words = len(word_spans(document.text))
            slots = tag_slots(words, document.id, self.tag.rate, self.seed, self.tag.min_tags)
            tags += len(slots)
            final, metadata = document.metadata["final"], document.metadata
            document.metadata["tagged"] = {
                "id": document.id,
                "text": document.text,
                "slots": slots,
                "words": words,
                "score": final["score"],
                "category": final["category"],
                **{key: metadata[key] for key in ("source", "licence", "language")},
            }
            yield document
        self.task.metrics["tags"] = tags
