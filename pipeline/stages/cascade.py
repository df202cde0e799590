"""The embedding stage of a cascade: reads the fastText sidecar, embeds what the gate passes, leaves the rest null."""

import functools
from pathlib import Path
from typing import Any

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from classifiers.calibration_file import CALIBRATE
from classifiers.cascade import CALIBRATION_FILE, GatedEmbedding
from classifiers.chunk_gate import GATE_FILE
from classifiers.errors import ModelError
from pipeline.atomic_files import file_sha256
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef
from pipeline.stages.dedup import document_table
from pipeline.stages.score import SCORE_SCHEMA, ClassifierStage, score_of_row, score_row, score_table
from pipeline.tables import ReadShard, WriteShard

STOPPED = "stopped_at_gate"  # the reason in a null row: the classifier was not asked


class GatedEmbeddingStage(ClassifierStage):
    """`score-embedding` behind the gates of `score.cascade`. Its row of a document depends on that document alone."""

    def __init__(self, *arguments: Any):
        super().__init__("embedding", *arguments)

    @property
    def folder(self) -> Path:
        """The gate and its calibration."""
        assert self.recipe.score.cascade is not None
        return Path(self.recipe.score.cascade.calibration)

    def settings(self) -> dict[str, Any]:
        for name in (GATE_FILE, CALIBRATION_FILE):
            if not (self.folder / name).is_file():
                raise ModelError(f"score.cascade.calibration: {self.folder / name}: no such file; {CALIBRATE}")
        files = {name: file_sha256(self.folder / name) for name in (GATE_FILE, CALIBRATION_FILE)}
        return {**super().settings(), "cascade": files}

    def inputs(self, shard: int) -> list[ShardRef]:
        return [*super().inputs(shard), ("score-fasttext", shard)]

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        def row(document: Document) -> dict[str, Any]:
            score = document.metadata["embedding"]
            return score_row(document.id, vars(score) if score else None, STOPPED)

        sidecars = {"score-fasttext": score_table(self.run, "fasttext", task.shard)}
        return [
            ReadShard(task, document_table(self.run, task.shard), sidecars),
            EmbedSuspicious(task, self),
            WriteShard(task, score_table(self.run, "embedding", task.shard), SCORE_SCHEMA, row),
        ]

    def load_gated(self) -> GatedEmbedding:
        """The gated classifier; called in the worker, which keeps it. Raises IdentityError for other weights."""
        score = self.recipe.score
        weights, head = (Path(p) if p else None for p in (score.fasttext.weights, score.embedding.head))
        return _gated(self.folder, self.load(), weights, head)


@functools.lru_cache(maxsize=1)
def _gated(folder: Path, embedding: Any, fasttext_weights: Path | None, head: Path | None) -> GatedEmbedding:
    return GatedEmbedding.load(folder, embedding, fasttext_weights, head)


class EmbedSuspicious(PipelineStep):
    """Puts a Score, or None where the document stops at the gate, on each document; drops and reorders none."""

    type = "🔎 - SCORER"
    name = "gated embedding"

    def __init__(self, task: ShardTask, stage: GatedEmbeddingStage):
        super().__init__()
        self.task, self.stage = task, stage

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        classifier = self.stage.load_gated()
        stopped = 0
        for document in data:
            first = score_of_row(document.metadata["score-fasttext"])
            (score,) = classifier.score([document.text], [first])
            stopped += score is None
            document.metadata["embedding"] = score
            yield document
        self.task.metrics["stopped_at_gate"] = stopped
