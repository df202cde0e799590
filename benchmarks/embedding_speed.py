"""Embedding classifier against `SentenceTransformer.encode`: `python -m benchmarks.embedding_speed` (needs sentence-transformers).

Both sides embed the same pieces of text with the same weights (the shipped classifier's, adapter merged), in turn in one process: `SentenceTransformer.encode` with
its defaults (batches of 32, float32; it cuts at 256 tokens, so the pieces are shorter than that, or its limit is raised to
our window where the pieces are longer) and `Encoder.embed` in each precision. Then whole documents: there ours reads all of
a document and `encode` its first 256 tokens. Agreement: the same level from the shipped head, by document: of pieces with
the vectors of `encode`, of whole documents with the shipped classifier in float32.
"""

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpora import read_texts
from classifiers.chunks import balanced_spans
from classifiers.embedding import SHIPPED_HEAD, EmbeddingHeads, read_head_facts
from classifiers.encoder import DEFAULT_PRECISION, Embeddings, Encoder, embedded_encoder_folder
from classifiers.reduced_precision import PRECISIONS


@dataclass(frozen=True)
class Pieces:
    """Pieces of texts; `document` [pieces]: the index of the text of each, ascending."""

    texts: list[str]
    document: np.ndarray
    tokens: int


def cut(texts: list[str], tokenizer: Any, most_tokens: int) -> Pieces:
    """Pieces of equal size of each text, none of more than `most_tokens` tokens when it is tokenised again."""
    pieces: list[str] = []
    document: list[int] = []
    for index, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        for start, end in balanced_spans(len(ids), most_tokens - most_tokens // 16, 64):
            pieces.append(tokenizer.decode(ids[start:end]))
            document.append(index)
    lengths = [len(ids) for ids in tokenizer(pieces)["input_ids"]]
    return Pieces(pieces, np.array(document), sum(lengths))


def vectors_of(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """The vectors of all chunks of the texts."""
    return encoder.embed(texts).vectors


def run_in_turn(sides: dict[str, Callable[[], np.ndarray]], repetitions: int) -> dict[str, list[tuple[float, float]]]:
    """(wall seconds, processor seconds) of each repetition of each side; one is run before that is not counted."""
    for work in sides.values():
        work()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, work in sides.items():
            wall, processor = time.perf_counter(), time.process_time()
            work()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return seconds


def show(title: str, seconds: dict[str, list[tuple[float, float]]], baseline: str, documents: int, notes: Any) -> None:
    """One line a side: documents a second, and how many times as fast as the baseline, by wall and processor time."""
    print(title)
    for name, times in seconds.items():
        ratios = [sorted(b[kind] / o[kind] for b, o in zip(seconds[baseline], times, strict=True)) for kind in (0, 1)]
        wall, processor = (statistics.median(side) for side in zip(*times, strict=True))
        shown = ", ".join(
            f"{statistics.median(r):.2f} ({r[0]:.2f}-{r[-1]:.2f}) by {kind}"
            for r, kind in zip(ratios, ("wall", "processor time"), strict=True)
        )
        print(
            f"  {name:24} {wall:6.1f} s, {processor:6.1f} s of processor, {documents / wall:5.1f} documents/s; times as fast: {shown}"
            f"{notes.get(name, '')}",
            flush=True,
        )


def main() -> None:
    """Prints the comparison on short pieces, on pieces of our window, and on whole documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WARC or JSON-lines files; default: the sample pages")
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of torch, on both sides")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="safetrove-benchmark-") as name:
        texts = read_texts(arguments.data, Path(name) / "ingest")
    step = max(1, len(texts) // arguments.documents)
    texts = texts[::step][: arguments.documents]
    theirs = SentenceTransformer(str(embedded_encoder_folder()), device="cpu", local_files_only=True)
    default_tokens = int(theirs.max_seq_length or 256)
    adapter = read_head_facts(SHIPPED_HEAD).adapter
    ours = {name: Encoder(threads=arguments.threads, precision=name, adapter=adapter) for name in PRECISIONS}
    first = ours[DEFAULT_PRECISION]
    transformer: Any = theirs[0]
    transformer.auto_model.load_state_dict(first.model.state_dict())
    heads = EmbeddingHeads(SHIPPED_HEAD, first.weights_sha256, first.size)

    baseline = "SentenceTransformer"

    def sides_of(batch: list[str]) -> dict[str, Callable[[], np.ndarray]]:
        found: dict[str, Callable[[], np.ndarray]] = {
            baseline: functools.partial(theirs.encode, batch, show_progress_bar=False)
        }
        return found | {precision: functools.partial(vectors_of, encoder, batch) for precision, encoder in ours.items()}

    def levels(vectors: np.ndarray, document: np.ndarray) -> np.ndarray:
        return np.array([score.score for score in heads.score(Embeddings(vectors, document))])

    for most_tokens in (default_tokens, first.window):
        theirs.max_seq_length = most_tokens
        pieces = cut(texts, theirs.tokenizer, most_tokens)
        sides = sides_of(pieces.texts)
        expected = levels(sides[baseline](), pieces.document)
        notes = {
            precision: f"; same level in {np.mean(levels(sides[precision](), pieces.document) == expected):.4f}"
            for precision in ours
        }
        title = f"{len(texts)} documents, {len(pieces.texts)} pieces of at most {most_tokens} tokens, {pieces.tokens} tokens"
        show(title, run_in_turn(sides, arguments.repetitions), baseline, len(texts), notes)
    theirs.max_seq_length = default_tokens
    title = f"whole documents ({baseline} reads the first {default_tokens} tokens of each)"
    scored = {name: [score.score for score in heads.score(encoder.embed(texts))] for name, encoder in ours.items()}
    notes = {
        name: f"; same level as {DEFAULT_PRECISION} in {np.mean(np.array(found) == scored[DEFAULT_PRECISION]):.4f}"
        for name, found in scored.items()
    }
    show(title, run_in_turn(sides_of(texts), 1), baseline, len(texts), notes)


if __name__ == "__main__":
    main()
