"""Stages `verify-<kind>`: every draft is scored again and checked; only what passes is a synthetic text."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from classifiers.errors import DataError
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.attempts import UNANSWERED
from pipeline.stages.dedup import document_table
from pipeline.stages.synthesis import ATTEMPTS_TYPE, DRAFT_SCHEMA, STAGE_OF_KIND, draft_table, synthetic_table
from pipeline.stages.verification import BATCH_DRAFTS, Verification, draft_of
from pipeline.tables import ReadShard, WriteShard, read_rows
from rephrasers.verify import Draft, DraftKind, Verdict

SYNTHETIC_SCHEMA = DRAFT_SCHEMA.append(pa.field("score_after", pa.int8()))
REJECTED_SCHEMA = pa.schema([("id", pa.string()), ("source_id", pa.string()), ("attempts", ATTEMPTS_TYPE)])


def rejected_table(run: RunFolder, kind: str, shard: int) -> Path:
    """The dropped drafts: ids and the reasons of every attempt, no text."""
    return run.root / f"rejected/{kind}/{shard:05d}.parquet"


class VerifyStage(Stage):
    """The gate before `synthetic/`: judges each document's last draft anew, whatever the stage that wrote it found."""

    version = 2  # style, facts, copied runs; the attempts of a document

    def __init__(self, kind: DraftKind, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__(f"verify-{kind}", recipe, run, shards)
        self.kind = kind
        self.verification = Verification(kind, recipe, run, shards)

    def settings(self) -> dict[str, Any]:
        return self.verification.settings()

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
        rejected = rejected_table(self.run, self.kind, task.shard)
        return [
            ReadShard(task, draft_table(self.run, self.kind, task.shard)),
            JoinSources(self._sources(task.shard)[1], self.recipe.synthesis.source_characters),
            Verify(task, self.kind, self.verification.verdicts, rejected),
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
    """Drop each document whose last draft breaks a rule, under the first one; its attempts go to the table `rejected`.

    Metrics, over all attempts: `yield_by_style` (accepted, drafts), `rejected_by_style` (drafts by reason; a draft may
    have several), `accepted_by_attempt`.
    """

    type = "🔻 - FILTER"

    def __init__(
        self,
        task: ShardTask,
        kind: DraftKind,
        verdicts: Callable[[Sequence[Draft]], list[Verdict]],
        rejected: Path,
    ):
        super().__init__()
        self.task, self.kind, self.verdicts, self.rejected = task, kind, verdicts, rejected
        self.drafts: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.accepted_by_attempt: Counter[int] = Counter()
        self.reasons: dict[str, Counter[str]] = {}

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        rejected = 0
        with pq.ParquetWriter(self.task.output(self.rejected), REJECTED_SCHEMA, compression="zstd") as writer:
            for batch in batched(data, BATCH_DRAFTS):
                verdicts = self.verdicts([_draft(self.kind, document) for document in batch])
                failed = []
                for document, verdict in zip(batch, verdicts, strict=True):
                    self._count(document.metadata, verdict)
                    if verdict.accepted:
                        document.metadata["score_after"] = verdict.score_after
                        yield document
                    else:
                        self.task.drop(verdict.reasons[0])
                        row = {key: document.metadata[key] for key in ("source_id", "attempts")}
                        failed.append({"id": document.id, **row})
                if failed:
                    writer.write_table(pa.Table.from_pylist(failed, schema=REJECTED_SCHEMA))
                    rejected += len(failed)
        self.task.output_rows(self.rejected, rejected)
        self.task.metrics |= {
            "yield_by_style": {style: [self.accepted[style], n] for style, n in sorted(self.drafts.items())},
            "rejected_by_style": {style: dict(sorted(self.reasons[style].items())) for style in sorted(self.reasons)},
            "accepted_by_attempt": {str(number): n for number, n in sorted(self.accepted_by_attempt.items())},
        }

    def _count(self, metadata: dict[str, Any], verdict: Verdict) -> None:
        """Count all attempts, the judged one under this verdict; also written into the row, where it may be missing."""
        for attempt in metadata["attempts"]:
            if attempt["attempt"] == metadata["attempt"]:
                attempt["reasons"] = list(verdict.reasons)
                self.accepted[attempt["style"]] += verdict.accepted
                self.accepted_by_attempt[attempt["attempt"]] += verdict.accepted
            if attempt["reasons"] != [UNANSWERED]:
                self.drafts[attempt["style"]] += 1
                self.reasons.setdefault(attempt["style"], Counter()).update(attempt["reasons"])


def _draft(kind: DraftKind, document: Document) -> Draft:
    return draft_of(kind, {**document.metadata, "text": document.text}, document.metadata["source_text"])
