"""How fast a new head scores a corpus from its kept embeddings: `python -m benchmarks.rescoring_speed`.

The stage `score-embedding` with `keep_embeddings`, one worker, one shard: documents and vectors read, scores written and
committed. The vectors are drawn at random, which costs the same as real ones; the texts are those that other benchmarks read.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import benchmark_recipe, read_texts, write_corpus
from classifiers.embedding import SHIPPED_HEAD, read_head_facts
from classifiers.kept_embeddings import pack_vectors
from pipeline.executors.shard_run import run_shard
from pipeline.recipe import Recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.dedup import document_table
from pipeline.stages.embed import EMBEDDING_SCHEMA, kept_embeddings_table
from pipeline.stages.score import ClassifierStage


def keeping_recipe() -> Recipe:
    """The default recipe with kept embeddings."""
    recipe = benchmark_recipe()
    embedding = recipe.score.embedding.model_copy(update={"keep_embeddings": True})
    return recipe.model_copy(update={"score": recipe.score.model_copy(update={"embedding": embedding})})


def write_embeddings(recipe: Recipe, run: RunFolder, chunks: int) -> None:
    """A sidecar of `chunks` random vectors for each document of shard 0."""
    random, size = np.random.default_rng(0), read_head_facts(SHIPPED_HEAD).size
    path = kept_embeddings_table(recipe, run, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = pq.read_table(document_table(run, 0), columns=["id"]).column("id").to_pylist()
    with pq.ParquetWriter(path, EMBEDDING_SCHEMA, compression="zstd") as writer:
        for start in range(0, len(ids), 1000):
            rows = []
            for identifier in ids[start : start + 1000]:
                vectors = random.normal(size=(chunks, size))
                vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
                rows.append({"id": identifier, "n_chunks": chunks, "vectors": pack_vectors(vectors)})
            writer.write_table(pa.Table.from_pylist(rows, schema=EMBEDDING_SCHEMA))


def main() -> None:
    """Prints documents a second: median and spread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WARC or JSON-lines files; default: the sample pages")
    parser.add_argument("--documents", type=int, default=5000, help="texts are repeated up to this number")
    parser.add_argument("--chunks", type=int, default=3, help="of a document")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="safetrove-benchmark-") as name:
        texts = read_texts(arguments.data, Path(name) / "ingest")
        recipe, run = keeping_recipe(), RunFolder(Path(name) / "run")
        write_corpus(run, texts, arguments.documents, shards=1, score=0)
        write_embeddings(recipe, run, arguments.chunks)
        stage = ClassifierStage("embedding", recipe, run, 1)
        rates = []
        for _ in range(arguments.repetitions + 1):
            wall, processor = time.perf_counter(), time.process_time()
            run_shard(stage, 0, {})
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            rates.append((arguments.documents / wall, arguments.documents / processor))
        for kind, column in zip(("wall", "processor"), zip(*rates[1:], strict=True), strict=True):
            print(f"{statistics.median(column):.0f} documents a {kind} second ({min(column):.0f}-{max(column):.0f})")
        size = kept_embeddings_table(recipe, run, 0).stat().st_size
        print(f"kept embeddings: {size / arguments.documents / arguments.chunks:.0f} bytes a chunk")


if __name__ == "__main__":
    main()
