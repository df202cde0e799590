"""Texts to measure with, and run folders that hold them as finished documents with final scores."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from classifiers.errors import DataError
from pipeline.executors.local import run_local
from pipeline.ingest.documents import DOCUMENT_SCHEMA, content_sha256, document_id
from pipeline.ingest.input_files import list_input_files
from pipeline.recipe import Recipe, parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import read_failure
from pipeline.stages.dedup import document_table
from pipeline.stages.ingest import IngestStage, ingested_table
from pipeline.stages.score import score_table
from pipeline.tables import read_rows
from safetrove.sample.pages import read_pages

ROWS_WRITTEN_AT_ONCE = 1000
FINAL_SCHEMA = pa.schema(
    [("id", pa.string()), ("score", pa.int8()), ("category", pa.string()), ("never_train", pa.string())]
)


def benchmark_recipe(data: Path | None = None) -> Recipe:
    """A recipe with default settings and no language model; its source is only read where `data` is given."""
    path = str((data or Path()).resolve())
    jsonl = data is not None and (data.suffix == ".jsonl" or any(data.glob("*.jsonl*")))
    source = {"name": "benchmark", "format": "jsonl" if jsonl else "warc", "path": path}
    return parse_recipe({"name": "benchmark", "sources": [source], "synthesis": None}, "benchmarks", Path.cwd())


def read_texts(data: Path | None, folder: Path) -> list[str]:
    """The main texts of WARC or JSON-lines files, through the ingest stage; None: the sample pages, well-formed ones."""
    if data is None:
        return [page.body for page in read_pages() if not page.malformed and page.body]
    recipe, run = benchmark_recipe(data), RunFolder(folder)
    files = list_input_files(recipe)
    failed = run_local(IngestStage(recipe, run, files), [(s, {}) for s in range(len(files))], lambda *_: None)
    if failed:
        raise DataError(f"{data}: cannot be read: {read_failure(run, 'ingest', failed[0])}")
    return [row["text"] for shard in range(len(files)) for row in read_rows(ingested_table(run, shard), ["text"])]


def write_corpus(run: RunFolder, texts: list[str], documents: int, shards: int, score: int) -> None:
    """`documents` rows over `shards` document tables, the texts in turn, each row with an id of its own and the score."""
    for shard in range(shards):
        rows = range(shard, documents, shards)
        table, scores = document_table(run, shard), score_table(run, "final", shard)
        for path in (table, scores):
            path.parent.mkdir(parents=True, exist_ok=True)
        with (
            pq.ParquetWriter(table, DOCUMENT_SCHEMA, compression="zstd") as table_writer,
            pq.ParquetWriter(scores, FINAL_SCHEMA, compression="zstd") as score_writer,
        ):
            for start in range(0, len(rows), ROWS_WRITTEN_AT_ONCE):
                batch = [_row(row, texts) for row in rows[start : start + ROWS_WRITTEN_AT_ONCE]]
                finals = [_final(row["id"], score) for row in batch]
                table_writer.write_table(pa.Table.from_pylist(batch, schema=DOCUMENT_SCHEMA))
                score_writer.write_table(pa.Table.from_pylist(finals, schema=FINAL_SCHEMA))


def _row(row: int, texts: list[str]) -> dict[str, Any]:
    text, locator = texts[row % len(texts)], f"row:{row}"
    return {
        "id": document_id("benchmark", locator),
        "text": text,
        "source": "benchmark",
        "licence": "unknown",
        "url": "",
        "record": locator,
        "language": "en",
        "language_probability": 1.0,
        "content_sha256": content_sha256(text),
    }


def _final(identifier: str, score: int) -> dict[str, Any]:
    category = "none" if score == 0 else "other"
    return {"id": identifier, "score": score, "category": category, "never_train": None}
