"""Parquet shards as datatrove steps: read a shard with its row-aligned sidecars, write a shard atomically."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from classifiers.errors import DataError
from pipeline.shard_task import ShardTask

READ_ROWS = 256
WRITE_ROWS = 1000
WRITE_BYTES = 32 << 20

# Arrow's own allocator keeps what was freed: peak memory grew with the shard (43, 67, 75 MiB for 2,000, 20,000, 60,000
# short rows). The system's gives it back (8, 9, 10 MiB).
pa.set_memory_pool(pa.system_memory_pool())


def read_rows(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one Parquet shard, in order, a bounded number in memory. Raises DataError where it cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=READ_ROWS, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); rerun the stage that wrote it") from error


class ReadShard(PipelineStep):
    """Yield the documents of a shard; `sidecars` are joined by row, under their name, into the metadata.

    Raises DataError where a sidecar has another number of rows or another id in a row: it belongs to other documents.
    """

    type = "📖 - READER"
    name = "shard"

    def __init__(self, task: ShardTask, table: Path, sidecars: Mapping[str, Path] | None = None):
        super().__init__()
        self.task, self.table, self.sidecars = task, table, dict(sidecars or {})

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        readers = {name: read_rows(path) for name, path in self.sidecars.items()}
        for row in read_rows(self.table):
            self.task.read()
            document = Document(text=row.pop("text"), id=row.pop("id"), metadata=row)
            for name, reader in readers.items():
                side = next(reader, None)
                if side is None or side["id"] != document.id:
                    raise DataError(
                        f"{self.sidecars[name]}: not row-aligned with {self.table} at id {document.id}; "
                        f"rerun the stage that wrote the sidecar"
                    )
                document.metadata[name] = side
            yield document
        for name, reader in readers.items():
            if next(reader, None) is not None:
                raise DataError(
                    f"{self.sidecars[name]}: has more rows than {self.table}; rerun the stage that wrote it"
                )


class WriteShard(PipelineStep):
    """Write each document as the row that `row_of` makes of it; the file gets its name when the task commits.

    Rows are kept (`task.keep`) unless `row_of` returns None: then it has dropped or quarantined the document itself.
    """

    type = "💽 - WRITER"
    name = "shard"

    def __init__(
        self, task: ShardTask, table: Path, schema: pa.Schema, row_of: Callable[[Document], dict[str, Any] | None]
    ):
        super().__init__()
        self.task, self.table, self.schema, self.row_of = task, table, schema, row_of

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        total = 0
        with pq.ParquetWriter(self.task.output(self.table), self.schema, compression="zstd") as writer:
            waiting: list[dict[str, Any]] = []
            size = 0
            for document in data:
                row = self.row_of(document)
                if row is not None:
                    waiting.append(row)
                    size += len(row.get("text") or "")
                    self.task.keep()
                if len(waiting) >= WRITE_ROWS or size >= WRITE_BYTES:
                    total += self._flush(writer, waiting)
                    size = 0
                yield document
            total += self._flush(writer, waiting)
        self.task.output_rows(self.table, total)

    def _flush(self, writer: pq.ParquetWriter, waiting: list[dict[str, Any]]) -> int:
        if not waiting:
            return 0
        writer.write_table(pa.Table.from_pylist(waiting, schema=self.schema))
        count = len(waiting)
        waiting.clear()
        return count
