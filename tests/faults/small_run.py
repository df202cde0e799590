"""A run so small that it can be disturbed hundreds of times: four shards in four formats, a few documents each."""

import gzip
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from warcio.warcwriter import WARCWriter

from pipeline.manifest import Manifest
from pipeline.recipe import Recipe, parse_recipe
from pipeline.run import RunResult, execute
from pipeline.run_folder import RunFolder
from pipeline.stage import Stage
from tests.end_to_end.runs import sample_texts
from tests.end_to_end.writers import fair
from tests.pipeline.tiny_tokenizer import END, save_tiny_tokenizer

DOCUMENTS_A_SHARD = 5
FILES = {"jsonl-gz/a.jsonl.gz": 0, "jsonl-zst/b.jsonl.zst": 1, "parquet/c.parquet": 2, "warc/d.warc.gz": 3}
"""Input file, relative to the folder of inputs -> the shard that it becomes."""


@dataclass
class Watcher:
    """An observer that remembers what it was told."""

    started: list[tuple[str, list[int]]] = field(default_factory=list)
    failures: list[tuple[str, int, str]] = field(default_factory=list)

    def plan(self, states: list[Any]) -> None: ...

    def stage_started(self, stage: Stage, shards: list[int]) -> None:
        self.started.append((stage.name, shards))

    def event(self, stage: Stage, kind: str, shard: int, value: Any) -> None:
        if kind == "failed":
            self.failures.append((stage.name, shard, value))

    def stage_finished(self, stage: Stage) -> None: ...


def write_inputs(folder: Path) -> None:
    """The four input files, of beginnings of the sample pages; some texts stand in two shards."""
    texts = [{**row, "text": str(row["text"])[:500]} for row in sample_texts()]
    rows = [[*texts[shard::4][:DOCUMENTS_A_SHARD], {**texts[0], "id": f"again-{shard}"}] for shard in range(4)]
    for name in FILES:
        (folder / name).parent.mkdir(parents=True)
    lines = ["".join(json.dumps(row) + "\n" for row in part).encode() for part in rows]
    (folder / "jsonl-gz/a.jsonl.gz").write_bytes(gzip.compress(lines[0], mtime=0))
    (folder / "jsonl-zst/b.jsonl.zst").write_bytes(zstandard.compress(lines[1]))
    pq.write_table(pa.Table.from_pylist(rows[2]), folder / "parquet/c.parquet")
    (folder / "warc/d.warc.gz").write_bytes(_warc(rows[3]))


def _warc(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for number, row in enumerate(rows):
        headers = {"WARC-Date": "2024-01-01T00:00:00Z", "WARC-Record-ID": f"<urn:uuid:{number:032d}>"}
        payload = io.BytesIO(row["text"].encode())
        record = writer.create_warc_record(
            row["url"], "conversion", payload=payload, warc_content_type="text/plain", warc_headers_dict=headers
        )
        writer.write_record(record)
    return buffer.getvalue()


def small_recipe(folder: Path, writer_url: str | None = None, tokenizer: Path | None = None) -> Recipe:
    """The recipe over `folder`/in; with a writer's URL also the stages that ask a language model (and no encoder).

    tokenizer: its folder, which is part of a run's identity; None: a new one in `folder`.
    """
    kinds = {"jsonl-gz": "jsonl", "jsonl-zst": "jsonl", "parquet": "parquet", "warc": "warc"}
    sources = [
        {"name": name, "format": kind, "path": f"in/{name}", "licence": "CC0-1.0"} for name, kind in kinds.items()
    ]
    if tokenizer is None:
        tokenizer = folder / "tokenizer"
        if not tokenizer.is_dir():
            save_tiny_tokenizer(tokenizer, "bpe")
    value: dict[str, Any] = {
        "name": "small",
        "sources": sources,
        "synthesis": None,
        "tokenise": {"tokenizer": str(tokenizer), "end_of_document": END},
        "execution": {"workers": 2},
    }
    if writer_url is not None:
        llm = {"url": writer_url, "model": "stub", "concurrency": 4, "max_tokens": 400}
        value |= {"synthesis": {"llm": llm, "attempts": 1}, "score": {"classifiers": ["fasttext"]}}
    return parse_recipe(value, "small", folder)


def answer(prompt: str) -> str:
    """The stub's answer: a pure function of the prompt."""
    return fair(hashlib.sha256(prompt.encode()).hexdigest(), prompt)


def run_again(recipe: Recipe, run: RunFolder) -> tuple[RunResult, Watcher]:
    """The command `run`, in this process; its workers are forked from this process's fork server."""
    watcher = Watcher()
    return execute(recipe, run.root, watcher), watcher


def manifests(run: RunFolder) -> dict[str, Any]:
    """What the manifests say that no undisturbed run may say otherwise: all but times and the number of requests."""
    found = {}
    for path in sorted((run.root / "manifests").rglob("*.json")):
        if not path.name.endswith(".failed.json"):
            manifest = Manifest.read(path)
            metrics = {key: value for key, value in manifest.metrics.items() if key != "requests"}
            outputs = {name: (output.sha256, output.rows) for name, output in manifest.outputs.items()}
            found[f"{path.parent.name}/{path.stem}"] = (manifest.identity, manifest.rows, metrics, outputs)
    return found
