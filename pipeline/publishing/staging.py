"""Rows of each configuration as Parquet files under RUN/publish: made once, kept while their inputs stay the same."""

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from classifiers.errors import DataError
from pipeline.atomic_files import atomic_path, json_sha256, write_json
from pipeline.dataset_export.export import Counts
from pipeline.manifest import Manifest, OutputFile, output_state
from pipeline.publishing.configurations import config_batches, config_columns, config_schema, config_tables
from pipeline.publishing.plan import shard_path
from pipeline.run_folder import RunFolder

STAGING_VERSION = 1  # raised when the bytes of a staged file change for the same inputs


@dataclass(frozen=True)
class StagedShard:
    """One staged file and what its rows are; files without rows are not sent."""

    path: Path
    file: OutputFile
    counts: Counts


def staging_folder(run: RunFolder) -> Path:
    """What a run sends lies here, laid out as in the repository."""
    return run.root / "publish" / "files"


def stage_shard(run: RunFolder, config: str, shard: int, shards: int) -> StagedShard:
    """The file of one shard of one configuration, written where it is not there yet.

    Raises DataError where a table is not as its stage wrote it.
    """
    name = shard_path(config, shard, shards)
    final = staging_folder(run) / name
    record = run.root / "publish" / "records" / f"{name}.json"
    tables = _recorded_tables(run, config, shard)
    identity = json_sha256(
        {
            "version": STAGING_VERSION,
            "config": config,
            "columns": list(config_columns(config)),
            "inputs": {run.relative(table): recorded.sha256 for table, recorded in tables.items()},
        }
    )
    kept = _kept(record, final, identity)
    if kept is not None:
        return kept
    for table, recorded in tables.items():
        if output_state(table, recorded, full=True) != "ok":
            raise DataError(f"{table}: not as its stage wrote it; safetrove rerun it before publishing")
    counts = Counts(shards=1)
    with atomic_path(final) as temporary:
        with pq.ParquetWriter(temporary, config_schema(run, config, shard), compression="zstd") as writer:
            for batch in config_batches(run, config, shard):
                if batch.num_rows:
                    counts.add(batch)
                    writer.write_batch(batch)
    staged = StagedShard(final, OutputFile.of(final, counts.rows), counts)
    write_json(record, {"identity": identity, "file": asdict(staged.file), "counts": _counts_json(counts)})
    return staged


def _recorded_tables(run: RunFolder, config: str, shard: int) -> dict[Path, OutputFile]:
    """The shard's tables with what their manifests say about them."""
    found = {}
    for stage, table in config_tables(run, config, shard).items():
        path = run.manifest(stage, shard)
        outputs = Manifest.read(path).outputs if path.is_file() else {}
        if run.relative(table) not in outputs:
            raise DataError(f"{run.root}: shard {shard} of {stage} is not finished; see safetrove status {run.root}")
        found[table] = outputs[run.relative(table)]
    return found


def _kept(record: Path, final: Path, identity: str) -> StagedShard | None:
    """What an earlier call staged from the same inputs; None where it did not, or where the file is another one now."""
    if not record.is_file():
        return None
    value = json.loads(record.read_text(encoding="utf-8"))
    file = OutputFile(**value["file"])
    if value["identity"] != identity or output_state(final, file) != "ok":
        return None
    by = {column: Counter(values) for column, values in value["counts"].pop("by").items()}
    return StagedShard(final, file, Counts(**value["counts"], by=by))


def _counts_json(counts: Counts) -> dict[str, Any]:
    return {"rows": counts.rows, "characters": counts.characters, "shards": counts.shards, "by": counts.by}
