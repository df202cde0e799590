"""Stages run in this process on small shards, for the golden values and for the tests of the tag's invariants."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.executors.shard_run import run_shard
from pipeline.ingest.documents import DOCUMENT_SCHEMA, content_sha256, document_id
from pipeline.manifest import Manifest
from pipeline.recipe import Recipe, parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.stage import Stage
from pipeline.stages.dedup import document_table
from pipeline.stages.score import SCORE_SCHEMA, score_row, score_table


def small_recipe(folder: Path, **changes: Any) -> Recipe:
    """A recipe without a language model; `changes` are top-level sections."""
    source = {"name": "texts", "format": "jsonl", "path": "in", "licence": "CC0-1.0"}
    return parse_recipe({"name": "small", "sources": [source], "synthesis": None, **changes}, "test", folder)


def run_stage(stage: Stage, shard: int = 0) -> Manifest:
    """One shard in this process, without the worker pool."""
    return run_shard(stage, shard, {**stage.identity, "inputs": {}})


def write_documents(run: RunFolder, texts: list[str], shard: int = 0) -> list[str]:
    """A shard as the stage `documents` leaves it; returns the ids."""
    rows = [
        {
            "id": document_id("texts", str(number)),
            "text": text,
            "source": "texts",
            "licence": "CC0-1.0",
            "url": "",
            "record": str(number),
            "language": "en",
            "language_probability": 1.0,
            "content_sha256": content_sha256(text),
        }
        for number, text in enumerate(texts)
    ]
    write_table(document_table(run, shard), rows, DOCUMENT_SCHEMA)
    return [row["id"] for row in rows]


def write_scores(run: RunFolder, classifier: str, ids: list[str], levels: list[int | None], shard: int = 0) -> None:
    """A classifier's sidecar with these levels; None is a row that was not asked."""
    rows = []
    for identifier, level in zip(ids, levels, strict=True):
        if level is None:
            rows.append(score_row(identifier, None, "not_asked"))
            continue
        score = {
            "score": level,
            "probabilities": [0.5 if i == level else 0.1 for i in range(6)],
            "category": "none" if level == 0 else "other",
            "category_probability": 0.5,
            "n_chunks": 1,
            "reason": None,
            "never_train": [],
        }
        rows.append(score_row(identifier, score))
    write_table(score_table(run, classifier, shard), rows, SCORE_SCHEMA)


def rows_sha256(table: Path) -> str:
    """Hash of a Parquet file's logical rows: not of its bytes, which change with the library that writes them."""
    return value_sha256(pq.read_table(table).to_pylist())


def value_sha256(value: Any) -> str:
    """Hash of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def write_table(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """A Parquet file with these rows; columns that a row lacks are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
