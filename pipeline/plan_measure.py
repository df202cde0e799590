"""Runs the real stages on the sample of `safetrove plan`, in a temporary run folder, and times them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from classifiers.encoder import EMBEDDED_ENCODER
from classifiers.errors import DataError
from pipeline.executors.local import run_local
from pipeline.ingest.input_files import InputFile
from pipeline.manifest import Manifest
from pipeline.plan_sample import YieldDocuments
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask, read_failure
from pipeline.stage import Stage
from pipeline.stages.dedup import DedupFindStage
from pipeline.stages.ingest import IngestStage
from pipeline.stages.order import build_stages
from rephrasers.embedded_writer import EMBEDDED_NAME

SAMPLE, WARM_UP, EMPTY = (
    0,
    1,
    2,
)  # shards: the sample; a few documents that load the models; what a shard costs by itself
WARM_UP_DOCUMENTS = 3


@dataclass(frozen=True)
class Measured:
    """One stage on the sample. Seconds are of one worker; bytes are of the files that it leaves.

    `start_seconds`: until the worker is there and its models are loaded.
    """

    rows_in: int
    kept: int
    seconds: float
    seconds_of_a_shard: float
    start_seconds: float
    bytes: int
    bytes_of_a_shard: int
    metrics: dict[str, Any]


class SampledIngestStage(IngestStage):
    """IngestStage that reads the sampled documents instead of its input files."""

    def __init__(self, recipe: Recipe, run: RunFolder, files: list[InputFile], documents: list[Document]):
        super().__init__(recipe, run, files)
        self.documents = documents

    def raw_inputs(self, shard: int) -> dict[str, Path | str]:
        return {}

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        parts = {SAMPLE: self.documents, WARM_UP: self.documents[:WARM_UP_DOCUMENTS], EMPTY: []}
        return [YieldDocuments(task, parts[task.shard]), *super().steps(task)[1:]]


def is_local(name: str) -> bool:
    """True for the embedded models and for folders: what can be measured without asking the Hub."""
    return name in (EMBEDDED_ENCODER, EMBEDDED_NAME) or Path(name).is_dir()


def measurable(recipe: Recipe, encoder: bool = True) -> tuple[Recipe, list[str]]:
    """The recipe without what cannot be measured here (language models, models on the Hub), and what was left out; on
    demand without the encoder too."""
    notes: list[str] = []
    names = [name for name in recipe.score.classifiers if name != "judge"]
    if not encoder and "embedding" in names:
        names.remove("embedding")
    if not is_local(recipe.score.embedding.encoder) and "embedding" in names:
        names.remove("embedding")
        notes.append(f"score-embedding: {recipe.score.embedding.encoder} is on the Hub, not a local folder: no time")
    if "judge" in recipe.score.classifiers:
        notes.append("score-judge is not asked: documents by level are those of the other classifiers")
    if not names:
        names = ["fasttext"]
        notes.append("documents by level are those of the shipped fastText classifier, which this recipe does not ask")
    cascade = recipe.score.cascade if "embedding" in names else None
    changes = {
        "score": recipe.score.model_copy(update={"classifiers": names, "cascade": cascade}),
        "synthesis": None,
        "execution": recipe.execution.model_copy(update={"workers": 1}),
    }
    return recipe.model_copy(update=changes), notes


def measure_stages(recipe: Recipe, run: RunFolder, file: InputFile, documents: list[Document]) -> dict[str, Measured]:
    """Stage -> what it took. `recipe` is a `measurable` one. Raises DataError where a stage fails on the sample."""
    stages = build_stages(recipe, run, [file] * 3)
    measured: dict[str, Measured] = {}
    for stage in stages:
        if stage.name in ("blend", "report") or (stage.name in _NEED_TOKENIZER and not _has_tokenizer(recipe)):
            continue
        if isinstance(stage, IngestStage):
            stage = SampledIngestStage(recipe, run, [file] * 3, documents)
        elif isinstance(stage, DedupFindStage):
            stage = DedupFindStage(recipe, run, 1)  # the warm-up repeats documents of the sample
        measured[stage.name] = _measure(stage)
    return measured


_NEED_TOKENIZER = ("tokenizer", "tokenise-safe", "tokenise-tagged", "card-counts")


def _has_tokenizer(recipe: Recipe) -> bool:
    return is_local(recipe.tokenise.tokenizer)


def _measure(stage: Stage) -> Measured:
    per_file = stage.name not in ("dedup-find", "tokenizer")
    shards = [WARM_UP, EMPTY, SAMPLE] if per_file else list(range(stage.shards))
    # Loading that waits for a document of its kind (the first one to tag) may not come in the few of the warm-up, so the
    # sample itself goes first, but through the encoder: that would take longer than everything else together.
    first = [SAMPLE] if per_file and stage.name not in ("embed", "score-embedding") else []
    began = time.monotonic()
    failed = run_local(stage, [(shard, {}) for shard in [*first, *shards]], lambda *_: None)
    wall = time.monotonic() - began
    if failed:
        raise DataError(
            f"plan: stage {stage.name} fails on the sample: {read_failure(stage.run, stage.name, failed[0])}"
        )
    manifests = {shard: Manifest.read(stage.run.manifest(stage.name, shard)) for shard in shards}
    whole = [manifests[SAMPLE]] if per_file else list(manifests.values())
    sizes = [sum(file.bytes for file in manifest.outputs.values()) for manifest in whole]
    rows = whole[0].rows
    # What loads is in the seconds of the job that came first: of the sample, or of the few documents of the warm-up.
    worked = [manifests[shard].seconds for shard in shards if first or shard != WARM_UP or not per_file]
    return Measured(
        rows_in=sum(m.rows.rows_in for m in whole),
        kept=sum(m.rows.kept for m in whole),
        seconds=sum(m.seconds for m in whole),
        seconds_of_a_shard=min(manifests[EMPTY].seconds, whole[0].seconds) if per_file else 0.0,
        start_seconds=max(0.0, wall - sum(worked) - sum(manifests[shard].seconds for shard in first)),
        bytes=sum(sizes),
        bytes_of_a_shard=min(sum(f.bytes for f in manifests[EMPTY].outputs.values()), sizes[0]) if per_file else 0,
        metrics={**whole[0].metrics, "rows": rows.to_json()},
    )
