"""What the pipeline costs on top of the libraries: `python -m benchmarks.overhead`.

Pipeline side: whole stages on one worker, shard after shard (read Parquet with its sidecars, work, write, hash, fsync,
manifest, datatrove's log). Bare side: the same texts from the same files through the same library calls in the same
batches, results kept (tokens written with numpy). Both sides alternate in one process; models are loaded before.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.corpora import benchmark_recipe, read_texts, write_corpus
from pipeline.executors.shard_run import run_shard
from pipeline.run_folder import RunFolder
from pipeline.stage import Stage
from pipeline.stages.dedup import document_table
from pipeline.stages.score import ClassifierStage
from pipeline.stages.tag import TagStage
from pipeline.stages.tokenise import BATCH_DOCUMENTS, TokeniserStage, TokeniseStage
from pipeline.tagging import tag_slots
from pipeline.tokens.corpus_tokenizer import load_corpus_tokenizer
from pipeline.words import word_spans

SCORE_WINDOW = 512  # of classifiers.ScoreSafety


def bare_score(stage: ClassifierStage, shards: int) -> None:
    """The classifier on windows of the texts."""
    classifier = stage.load()
    for shard in range(shards):
        texts = _column(stage.run, shard, "text")
        results = []
        for start in range(0, len(texts), SCORE_WINDOW):
            results += classifier.score(texts[start : start + SCORE_WINDOW])


def bare_tag(stage: TagStage, shards: int) -> None:
    """Words and slots of each text."""
    tag, seed = stage.recipe.tag, stage.recipe.seed
    for shard in range(shards):
        rows = zip(_column(stage.run, shard, "id"), _column(stage.run, shard, "text"), strict=True)
        results = []
        for identifier, text in rows:
            words = len(word_spans(text))
            results.append((words, tag_slots(words, identifier, tag.rate, seed, tag.min_tags)))


def bare_tokenise(stage: TokeniseStage, shards: int) -> None:
    """Ids of each text with the end token, written as uint16, and their lengths."""
    tokenizer, numbers = load_corpus_tokenizer(stage.run.tokenizer())
    end = numbers["end_of_document_id"]
    folder = stage.run.root / "bare"
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        texts, lengths = _column(stage.run, shard, "text"), []
        with (folder / f"{shard}.bin").open("wb") as file:
            for start in range(0, len(texts), BATCH_DOCUMENTS):
                batch = texts[start : start + BATCH_DOCUMENTS]
                for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
                    ids = np.array([*encoding.ids, end], dtype=np.uint16)
                    file.write(ids.tobytes())
                    lengths.append(len(ids))
        np.save(folder / f"{shard}.npy", np.array(lengths))


def _column(run: RunFolder, shard: int, name: str) -> list[str]:
    texts: list[str] = pq.read_table(document_table(run, shard), columns=[name]).column(name).to_pylist()
    return texts


def measure(stage: Stage, shards: int, bare: Callable[[], None], repetitions: int) -> list[tuple[float, float]]:
    """(seconds of the pipeline, seconds of the bare loop) of each repetition, after one of each that is not counted."""

    def pipeline() -> None:
        for shard in range(shards):
            run_shard(stage, shard, {})

    pairs = [(_seconds(pipeline), _seconds(bare)) for _ in range(repetitions + 1)]
    return pairs[1:]


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Prints one line a stage: median and spread of the ratio, and the medians of both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WARC or JSON-lines files; default: the sample pages")
    parser.add_argument("--documents", type=int, default=6000, help="texts are repeated up to this number")
    parser.add_argument("--embedding-documents", type=int, default=40)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one worker, one core, as where every core has its worker
    with tempfile.TemporaryDirectory(prefix="safetrove-benchmark-") as name:
        folder = Path(name)
        texts = read_texts(arguments.data, folder / "ingest")
        recipe, shards = benchmark_recipe(), arguments.shards
        safe, unsafe, few = (RunFolder(folder / part) for part in ("safe", "unsafe", "few"))
        write_corpus(safe, texts, arguments.documents, shards, score=0)
        write_corpus(unsafe, texts, arguments.documents, shards, score=3)
        write_corpus(few, texts, arguments.embedding_documents, shards, score=0)
        run_shard(TokeniserStage(recipe, safe), 0, {})
        fasttext = ClassifierStage("fasttext", recipe, safe, shards)
        embedding = ClassifierStage("embedding", recipe, few, shards)
        tag, tokenise = TagStage(recipe, unsafe, shards), TokeniseStage("safe", recipe, safe, shards)
        cases: list[tuple[Stage, int, Callable[[], None]]] = [
            (fasttext, arguments.documents, lambda: bare_score(fasttext, shards)),
            (tag, arguments.documents, lambda: bare_tag(tag, shards)),
            (tokenise, arguments.documents, lambda: bare_tokenise(tokenise, shards)),
            (embedding, arguments.embedding_documents, lambda: bare_score(embedding, shards)),
        ]
        print(f"{len(texts)} texts, mean {sum(map(len, texts)) / len(texts):.0f} characters; {shards} shards")
        for stage, documents, bare in cases:
            pairs = measure(stage, shards, bare, arguments.repetitions)
            ratios = sorted(p / b for p, b in pairs)
            ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
            print(
                f"{stage.name:16} {documents:6} documents: ratio {statistics.median(ratios):.3f} "
                f"({ratios[0]:.3f}-{ratios[-1]:.3f}, {len(ratios)} repetitions), pipeline {ours:.2f} s, bare {theirs:.2f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
