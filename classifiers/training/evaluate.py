"""Prints the numbers of the model card: `python -m classifiers.training.evaluate LABELS.jsonl`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from classifiers.embedding import SHIPPED_HEAD, EmbeddingClassifier
from classifiers.encoder import EMBEDDED_ENCODER
from classifiers.ensemble import combine
from classifiers.errors import SafetroveError
from classifiers.fasttext_classifier import SHIPPED_WEIGHTS, FastTextClassifier
from classifiers.never_train import never_train_reason
from classifiers.rubric import LEVELS
from classifiers.score import Score
from classifiers.training.labels import LabelledText, read_labels, read_texts


def recall_at(true: Sequence[int], predicted: Sequence[int], level: int) -> float:
    """Share of the texts truly at `level` or above that are scored at `level` or above; nan where there are none."""
    hits = sum(t >= level and p >= level for t, p in zip(true, predicted, strict=True))
    total = sum(t >= level for t in true)
    return hits / total if total else float("nan")


def precision_at(true: Sequence[int], predicted: Sequence[int], level: int) -> float:
    """Share of the texts scored at `level` or above that truly are; nan where there are none."""
    return recall_at(predicted, true, level)


def macro_f1(true: Sequence[int], predicted: Sequence[int], classes: int = len(LEVELS)) -> float:
    """Unweighted mean over the classes of F1 = 2 hits / (true + predicted); 0 for a class without any of them."""
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (np.asarray(true), np.asarray(predicted)), 1)
    sizes = confusion.sum(axis=0) + confusion.sum(axis=1)
    return float((2 * np.diag(confusion) / np.maximum(sizes, 1)).mean())


def metrics_row(name: str, true: Sequence[int], predicted: Sequence[int]) -> str:
    """One line of the table: recall and precision at 1 and 3, macro F1."""
    cells = [measure(true, predicted, level) for measure in (recall_at, precision_at) for level in (1, 3)]
    return (
        f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in [*cells, macro_f1(true, predicted)]) + f" | {len(true)} |"
    )


def evaluate(rows: list[LabelledText], predictions: dict[str, list[int]]) -> str:
    """Markdown tables: each classifier on all rows, then the last one (the ensemble) by kind of text."""
    head = "| {} | recall@1 | recall@3 | precision@1 | precision@3 | macro F1 | texts |\n|---|---|---|---|---|---|---|"
    true = [row.score for row in rows]
    lines = [head.format("classifier")] + [
        metrics_row(name, true, predicted) for name, predicted in predictions.items()
    ]
    name = list(predictions)[-1]
    lines += ["", head.format(f"{name}, by kind")]
    for source in sorted({row.source for row in rows}):
        chosen = [index for index, row in enumerate(rows) if row.source == source]
        lines.append(metrics_row(source, [true[i] for i in chosen], [predictions[name][i] for i in chosen]))
    return "\n".join(lines)


def share_table(texts: list[str], members: dict[str, list[Score]]) -> str:
    """Markdown table of unlabelled texts: the share scored at 1 and at 3 or above, and the share that is never trained on."""
    lines = ["| classifier | scored >= 1 | scored >= 3 | never_train | texts |", "|---|---|---|---|---|"]
    for name, scores in members.items():
        at_1, at_3 = (sum(score.score >= level for score in scores) / len(scores) for level in (1, 3))
        reasons = [never_train_reason(text, {name: score}) for text, score in zip(texts, scores, strict=True)]
        never = sum(reason is not None for reason in reasons) / len(texts)
        lines.append(f"| {name} | {at_1:.3f} | {at_3:.3f} | {never:.4f} | {len(texts)} |")
    return "\n".join(lines)


def score_with_all(texts: list[str], weights: Path | None, threads: int) -> dict[str, list[Score]]:
    """The scores of each classifier and, last, of their ensemble."""
    head = weights / SHIPPED_HEAD.parent.name / SHIPPED_HEAD.name if weights else None
    fasttext = FastTextClassifier.load(weights / SHIPPED_WEIGHTS.name if weights else None).score(texts)
    embedding = EmbeddingClassifier.load(EMBEDDED_ENCODER, head, threads).score(texts)
    ensemble = [combine({"fasttext": a, "embedding": b}) for a, b in zip(fasttext, embedding, strict=True)]
    return {"fastText": fasttext, "embedding": embedding, "ensemble (max)": ensemble}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m classifiers.training.evaluate", description=__doc__)
    parser.add_argument("labels", type=Path, help="JSON lines with text, score (0-5) and category")
    parser.add_argument(
        "--unlabelled", action="store_true", help="the rows have only text: print the shares scored unsafe"
    )
    parser.add_argument(
        "--weights", type=Path, help="a folder that the training command wrote; default: the shipped weights"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the encoder (default: 1)")
    options = parser.parse_args(arguments)
    try:
        if options.unlabelled:
            texts = read_texts(options.labels)
            print(share_table(texts, score_with_all(texts, options.weights, options.threads)))
            return 0
        rows = read_labels(options.labels)
        members = score_with_all([row.text for row in rows], options.weights, options.threads)
    except SafetroveError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(evaluate(rows, {name: [score.score for score in scores] for name, scores in members.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
