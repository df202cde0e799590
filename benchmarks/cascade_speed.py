"""What the cascade saves and what it misses, against embedding everything: `python -m benchmarks.cascade_speed`.

The gates are distilled and calibrated on one half of the pages; both sides run over the other half, which that procedure
has not seen, in turns in one process. Recall is relative to the levels of the always-embed run. Then the cascade alone
over 1, 5 and 20 times a slice of the texts, each a process of its own, for time per document and peak memory.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.corpora import read_texts
from benchmarks.memory import peak_mebibytes
from classifiers.calibration import describe, distil_and_calibrate, read_all_texts, weight_paths
from classifiers.cascade import CALIBRATION_FILE, CascadeClassifier
from classifiers.cascade_rules import BOUNDARIES
from classifiers.embedding import EmbeddingClassifier
from classifiers.fasttext_classifier import FastTextClassifier
from classifiers.gate_statistics import clopper_pearson_lower
from classifiers.training.gate_training import fold_of
from classifiers.training.labels import read_texts as read_json_lines

WINDOW = 512  # documents a call, as in classifiers.ScoreSafety
TIMES = (1, 5, 20)
CONFIDENCE = 0.95


def seconds_and_levels(
    classifier: EmbeddingClassifier | CascadeClassifier, texts: list[str]
) -> tuple[float, list[int]]:
    """Processor time (the machine may be shared) of scoring the texts in windows, and their levels."""
    started = time.process_time()
    levels: list[int] = []
    for start in range(0, len(texts), WINDOW):
        levels += [score.score for score in classifier.score(texts[start : start + WINDOW])]
    return time.process_time() - started, levels


def recall_line(level: int, always: list[int], cascade: list[int]) -> str:
    """Recall of the cascade at `level` relative to the always-embed run, with its lower bound."""
    found = [c >= level for a, c in zip(always, cascade, strict=True) if a >= level]
    if not found:
        return f"score >= {level}: no page of this half reaches it"
    lower = clopper_pearson_lower(sum(found), len(found), CONFIDENCE)
    return f"score >= {level}: recall {sum(found) / len(found):.3f} of {len(found)} pages, at least {lower:.3f} with 95 % confidence"


def compare(embedding: EmbeddingClassifier, cascade: CascadeClassifier, texts: list[str], repetitions: int) -> None:
    """Prints the ratio of both sides' times, with its spread, and the recalls."""
    ratios, times = [], []
    for classifier in (embedding, cascade):  # what is loaded or compiled at the first call is no part of either side
        classifier.score(texts[:2])
    for _ in range(repetitions):
        (slow, always), (fast, levels) = seconds_and_levels(embedding, texts), seconds_and_levels(cascade, texts)
        ratios.append(slow / fast)
        times.append((slow, fast))
    slow, fast = (statistics.median(side) for side in zip(*times, strict=True))
    print(
        f"always-embed / cascade: {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}, {repetitions} "
        f"repetitions), {slow:.1f} s / {fast:.1f} s for {len(texts)} pages"
    )
    embedded = sum(score.by["embedding"] is not None for score in cascade.score(texts)) / len(texts)
    shares = [sum(level >= 1 for level in side) / len(side) for side in (always, levels)]
    print(
        f"pages that reach the encoder: {embedded:.1%}; scored >= 1: {shares[0]:.1%} by the encoder, {shares[1]:.1%} by the cascade"
    )
    for level in BOUNDARIES:
        print(recall_line(level, always, levels), flush=True)


def measure_growth(arguments: list[str], documents: int) -> None:
    """Prints time per document and peak memory at each multiple of `documents`, each in a process of its own."""
    for times in TIMES:
        command = [sys.executable, "-m", "benchmarks.cascade_speed", *arguments, "--child", str(times * documents)]
        spent, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        print(
            f"{times * documents} pages: {1000 * float(spent) / (times * documents):.1f} ms a page, peak {float(peak):.0f} MiB",
            flush=True,
        )


def child(classifier: CascadeClassifier, texts: list[str], documents: int) -> None:
    """Scores `documents` texts, the given ones in turn, and prints seconds and this process's peak."""
    started = time.process_time()
    for start in range(0, documents, WINDOW):
        classifier.score([texts[index % len(texts)] for index in range(start, min(start + WINDOW, documents))])
    print(time.process_time() - started, peak_mebibytes())


def main() -> None:
    """Prints the calibration, the comparison, and the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, help="WARC or JSON-lines files, or Parquet documents; default: the sample pages"
    )
    parser.add_argument("--distil", type=Path, required=True, help="JSON lines with more texts to distil the gate from")
    parser.add_argument("--gates", type=Path, help="keep the gates here, and use them where they are there already")
    parser.add_argument(
        "--weights", type=Path, help="a folder that the training command wrote; default: the shipped weights"
    )
    parser.add_argument("--precision", default="float32", help="of the encoder")
    parser.add_argument("--target-1", type=float, default=0.9)
    parser.add_argument("--pages", type=int, help="use only so many pages of each half")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--growth-documents", type=int, default=40)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    fasttext_weights, head = weight_paths(options.weights)
    embedding = EmbeddingClassifier.load(head=head, precision=options.precision)
    with tempfile.TemporaryDirectory(prefix="safetrove-benchmark-") as scratch:
        parquet = options.data is not None and options.data.is_dir() and any(options.data.glob("*.parquet"))
        texts = read_all_texts(options.data) if parquet else read_texts(options.data, Path(scratch) / "ingest")
        # turned round, so that the halves have nothing to do with the folds of the calibration
        halves = [[text for text in texts if fold_of(text[::-1], 2) == half][: options.pages] for half in (0, 1)]
        gates = options.gates or Path(scratch) / "gates"
        if not (gates / CALIBRATION_FILE).is_file():
            members = FastTextClassifier.load(fasttext_weights), embedding
            targets: dict[int, float | None] = {1: options.target_1, 3: None}
            more = read_json_lines(options.distil)
            made = distil_and_calibrate(members, options.weights, halves[0], more, gates, targets, CONFIDENCE)
            print(describe(made), flush=True)
        cascade = CascadeClassifier.load(gates, embedding, fasttext_weights, head)
        if options.child:
            child(cascade, halves[1][: options.growth_documents], options.child)
            return
        compare(embedding, cascade, halves[1], options.repetitions)
        passed = [word for word in sys.argv[1:] if word != "--gates" and word != str(options.gates)]
        measure_growth([*passed, "--gates", str(gates)], options.growth_documents)


if __name__ == "__main__":
    main()
