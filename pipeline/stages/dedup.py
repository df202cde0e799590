"""Stages `dedup-find` (which rows repeat, over all shards) and `documents` (the corpus from here on, immutable)."""

from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline.dedup.signatures import DUPLICATE_ID, find_duplicates, findings_of_shard
from pipeline.ingest.documents import DOCUMENT_SCHEMA
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.ingest import ingested_table, signatures_file
from pipeline.tables import ReadShard, WriteShard


def findings_file(run: RunFolder, bucket: int) -> Path:
    """What one task of the duplicate search found."""
    return run.root / "duplicates" / f"{bucket:05d}.npy"


def document_table(run: RunFolder, shard: int) -> Path:
    """The documents of one shard."""
    return run.root / f"documents/{shard:05d}.parquet"


class DedupFindStage(Stage):
    """One task a bucket of hashes; each reads the signatures of all shards."""

    def __init__(self, recipe: Recipe, run: RunFolder, document_shards: int):
        super().__init__("dedup-find", recipe, run, recipe.ingest.dedup_buckets)
        self.document_shards = document_shards

    def settings(self) -> dict[str, Any]:
        return {"buckets": self.shards}

    def inputs(self, shard: int) -> list[ShardRef]:
        return [("ingest", s) for s in range(self.document_shards)]

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        return [FindDuplicates(task, self.run, self.document_shards, self.shards)]


class FindDuplicates(PipelineStep):
    """Search one bucket; the ledger counts the content hashes that fall into it."""

    type = "🫂 - DEDUPS"

    def __init__(self, task: ShardTask, run: RunFolder, document_shards: int, buckets: int):
        super().__init__()
        self.task, self.run_folder, self.document_shards, self.buckets = task, run, document_shards, buckets

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> None:
        def arrays() -> Any:
            for shard in range(self.document_shards):
                array = np.load(signatures_file(self.run_folder, shard), mmap_mode="r")
                in_bucket = array["content"][:, 0] % np.uint64(self.buckets) == rank
                self.task.read(int(in_bucket.sum()))
                yield shard, array

        findings = find_duplicates(arrays(), rank, self.buckets)
        with self.task.output(findings_file(self.run_folder, rank)).open("wb") as file:
            np.save(file, findings)
        self.task.keep(self.task.rows_in)  # nothing is dropped here: the next stage drops what was found
        self.task.metrics["duplicates"] = int((findings["kind"] != DUPLICATE_ID).sum())
        self.task.metrics["rows_with_a_conflicting_id"] = int((findings["kind"] == DUPLICATE_ID).sum())


class DocumentsStage(Stage):
    """Writes the ingested documents without the duplicates."""

    def __init__(self, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__("documents", recipe, run, shards)

    def settings(self) -> dict[str, Any]:
        return {}

    def inputs(self, shard: int) -> list[ShardRef]:
        return [("ingest", shard), *(("dedup-find", b) for b in range(self.recipe.ingest.dedup_buckets))]

    def main_input(self, shard: int) -> str:
        return self.run.relative(ingested_table(self.run, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        found: dict[int, int] = {}
        for bucket in range(self.recipe.ingest.dedup_buckets):
            findings = np.load(findings_file(self.run, bucket), mmap_mode="r")
            for row, kind in findings_of_shard(findings, task.shard).items():
                found[row] = max(kind, found.get(row, 0))
        return [
            ReadShard(task, ingested_table(self.run, task.shard)),
            DropDuplicates(task, found),
            WriteShard(task, document_table(self.run, task.shard), DOCUMENT_SCHEMA, _row),
        ]


def _row(document: Document) -> dict[str, Any]:
    return {"id": document.id, "text": document.text, **document.metadata}


class DropDuplicates(PipelineStep):
    """Drop repeated contents; quarantine, with their text, documents whose id is not their own."""

    type = "🫂 - DEDUPS"

    def __init__(self, task: ShardTask, found: dict[int, int]):
        super().__init__()
        self.task, self.found = task, found

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for row, document in enumerate(data):
            kind = self.found.get(row)
            if kind is None:
                yield document
            elif kind == DUPLICATE_ID:
                self.task.quarantine(
                    document.id,
                    "duplicate_id",
                    record=document.metadata["record"],
                    detail="another document with other text has the same id; give the records distinct ids",
                    text=document.text,
                )
            else:
                self.task.drop("duplicate")
