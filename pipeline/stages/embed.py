"""Stage `embed`: the chunk embeddings of every document, once, in a sidecar that any head on this encoder scores."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.batching import batched

from classifiers.embedding import SHIPPED_HEAD, HeadFacts, read_head_facts
from classifiers.encoder import LONGEST_WINDOW, Encoder
from classifiers.errors import ModelError
from classifiers.kept_embeddings import pack_vectors
from classifiers.score import Score
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask
from pipeline.stage import ShardRef, Stage
from pipeline.stages.dedup import document_table
from pipeline.tables import ReadShard, WriteShard

EMBEDDING_SCHEMA = pa.schema([("id", pa.string()), ("n_chunks", pa.int32()), ("vectors", pa.large_binary())])
SHA256_PREFIX = 12
SCORED_AT_ONCE = 256  # rows; at most 64 chunks each


def kept_embeddings_table(recipe: Recipe, run: RunFolder, shard: int) -> Path:
    """The kept embeddings of one shard by the recipe's encoder, in a folder named by the hash of its weights."""
    return run.root / "embeddings" / _head_facts(recipe).encoder_sha256[:SHA256_PREFIX] / f"{shard:05d}.parquet"


def _head_facts(recipe: Recipe) -> HeadFacts:
    """Which encoder, as the head names it: known without loading the encoder."""
    head = recipe.score.embedding.head
    return read_head_facts(SHIPPED_HEAD if head is None else Path(head))


class EmbedStage(Stage):
    """Runs the encoder over every document and keeps its chunk vectors (fp16). The head plays no part."""

    def __init__(self, recipe: Recipe, run: RunFolder, shards: int):
        super().__init__("embed", recipe, run, shards)

    def settings(self) -> dict[str, Any]:
        settings = self.recipe.score.embedding
        return {
            "encoder": settings.encoder,
            "encoder_sha256": _head_facts(self.recipe).encoder_sha256,
            "longest_window": LONGEST_WINDOW,
            "threads": settings.threads,
            "precision": settings.precision,
        }

    def inputs(self, shard: int) -> list[ShardRef]:
        return [("documents", shard)]

    def main_input(self, shard: int) -> str:
        return self.run.relative(document_table(self.run, shard))

    def steps(self, task: ShardTask) -> list[PipelineStep]:
        return [
            ReadShard(task, document_table(self.run, task.shard)),
            EmbedDocuments(self.load),
            WriteShard(
                task,
                kept_embeddings_table(self.recipe, self.run, task.shard),
                EMBEDDING_SCHEMA,
                lambda document: {"id": document.id, **document.metadata["embedding"]},
            ),
        ]

    def load(self) -> Encoder:
        """The encoder; called in the worker, which keeps it. Raises ModelError where the head belongs to another one."""
        settings = self.recipe.score.embedding
        facts = _head_facts(self.recipe)
        encoder = _encoder(settings.encoder, settings.threads, settings.precision, facts.adapter)
        if encoder.weights_sha256 != facts.encoder_sha256:
            raise ModelError(
                f"score.embedding.head was trained on another encoder than {settings.encoder!r}; train a head for it"
            )
        return encoder


@functools.lru_cache(maxsize=1)
def _encoder(encoder: str, threads: int, precision: str, adapter: Path | None) -> Encoder:
    return Encoder(encoder, threads, precision, adapter)


class EmbedDocuments(PipelineStep):
    """Puts `metadata["embedding"]` on each document: number of chunks and packed vectors; none for an empty text."""

    type = "🔎 - SCORER"
    name = "embeddings"

    def __init__(self, load: Callable[[], Encoder]):
        super().__init__()
        self.load = load

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        encoder = self.load()
        for document in data:
            vectors = encoder.embed([document.text] if document.text.strip() else []).vectors
            document.metadata["embedding"] = {"n_chunks": len(vectors), "vectors": pack_vectors(vectors)}
            yield document


class ScoreKeptEmbeddings(PipelineStep):
    """Puts the scores of a classifier of kept embeddings where `ScoreSafety` puts its own; drops and reorders none."""

    type = "🔎 - SCORER"
    name = "kept embeddings"

    def __init__(self, score_rows: Callable[[list[dict[str, Any]]], list[Score]], sidecar: str, name: str):
        super().__init__()
        self.score_rows, self.sidecar, self.classifier_name = score_rows, sidecar, name

    def run(self, data: DocumentsPipeline, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for documents in batched(data, SCORED_AT_ONCE):
            scores = self.score_rows([document.metadata.pop(self.sidecar) for document in documents])
            for document, score in zip(documents, scores, strict=True):
                document.metadata.setdefault("safety", {})[self.classifier_name] = vars(score)
                yield document
