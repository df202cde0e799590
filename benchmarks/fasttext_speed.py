"""fastText scoring against the bare binding, on one core: `python -m benchmarks.fasttext_speed`.

Three pairs, both sides in turn in one process, seconds of processor time, so that other work on the machine counts less:

- `whole job`: `FastTextClassifier.score(texts)` against the least that gives the same scores with the binding alone:
  the same preparation of the text, the same chunks, one call of each model for each chunk, answers thrown away.
- `prepared chunks`: both are handed the same chunks, prepared already; ours prepares them once more.
- `raw chunks`: the binding is handed the chunks as they are, with line ends as spaces. It predicts other things, since the
  models were trained on masked and tokenised text; this is the price of the preparation.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.corpora import read_texts
from classifiers.chunks import balanced_spans
from classifiers.fasttext_classifier import (
    CATEGORY_FILE,
    CATEGORY_LABELS,
    CHUNK_WORDS,
    LEVEL_FILE,
    LEVEL_LABELS,
    MOST_CHUNKS,
    SHIPPED_WEIGHTS,
    FastTextClassifier,
    binding,
    words_of,
)


def chunks_of(words: list[str]) -> list[str]:
    """The lines that the classifier hands to fastText."""
    return [" ".join(words[start:end]) for start, end in balanced_spans(len(words), CHUNK_WORDS, MOST_CHUNKS)]


def predict(models: list[tuple[Any, int]], lines: Iterable[str]) -> None:
    """Every label's probability for each line, by each (model, number of labels)."""
    for line in lines:
        for model, labels in models:
            model.f.predict(line + "\n", labels, 0.0, "strict")


def alternate(ours: Callable[[], Any], bare: Callable[[], Any], repetitions: int) -> list[tuple[float, float]]:
    """(our seconds, seconds of the bare side) of each repetition, after one of each that is not counted."""
    return [(_seconds(ours), _seconds(bare)) for _ in range(repetitions + 1)][1:]


def _seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def main() -> None:
    """Prints one line a pair: median and spread of our speed as a share of the bare side's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of WARC or JSON-lines files; default: the sample pages")
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="safetrove-benchmark-") as name:
        texts = read_texts(arguments.data, Path(name) / "ingest")[: arguments.documents]
    classifier = FastTextClassifier.load()
    models = [
        (binding().load_model(str(SHIPPED_WEIGHTS / file)), len(labels))
        for file, labels in ((LEVEL_FILE, LEVEL_LABELS), (CATEGORY_FILE, CATEGORY_LABELS))
    ]
    prepared = [line for text in texts for line in chunks_of(words_of(text))]
    raw = [line for text in texts for line in chunks_of(text.split())]
    print(f"{len(texts)} texts, mean {sum(map(len, texts)) / len(texts):.0f} characters, {len(prepared)} chunks")
    cases: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        (
            "whole job",
            lambda: classifier.score(texts),
            lambda: predict(models, (line for text in texts for line in chunks_of(words_of(text)))),
        ),
        ("prepared chunks", lambda: classifier.score(prepared), lambda: predict(models, prepared)),
        ("raw chunks", lambda: classifier.score(raw), lambda: predict(models, raw)),
    ]
    for label, ours, bare in cases:
        pairs = alternate(ours, bare, arguments.repetitions)
        shares = sorted(b / o for o, b in pairs)
        our_median, bare_median = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(
            f"{label:16} speed {statistics.median(shares):.2f} of the bare binding ({shares[0]:.2f}-{shares[-1]:.2f}, "
            f"{len(pairs)} repetitions): {our_median:.3f} s against {bare_median:.3f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
