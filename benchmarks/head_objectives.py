"""A multiclass head against a regression head, on the same frozen vectors, cross-validated.

`python -m benchmarks.head_objectives LABELS.jsonl [--folds 5] [--seeds 3]`. The paper found the multiclass head better than
regression and rounding (section on the embedding scorer); this prints both, with the spread over seeds of the folds.
"""

import argparse
from pathlib import Path

import numpy as np

from classifiers.encoder import EMBEDDED_ENCODER, Encoder
from classifiers.measures import confusion_matrix, macro_f1, precision_at, recall_at
from classifiers.rubric import LEVELS
from classifiers.training.head_training import INVERSE_REGULARISATION, fit_multinomial, level_weights, one_thread
from classifiers.training.labels import read_labels


def multiclass(train: np.ndarray, scores: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The most probable of six levels."""
    weights = level_weights(scores, 1.0)
    matrix, bias = fit_multinomial(train, scores, weights, len(LEVELS), INVERSE_REGULARISATION["level"])
    return (test @ matrix.T + bias).argmax(axis=1)


def regression(train: np.ndarray, scores: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Weighted ridge regression on the level, rounded to the nearest one."""
    features = np.column_stack([train, np.ones(len(train))])
    weighted = features * level_weights(scores, 1.0)[:, None]
    penalty = np.eye(features.shape[1]) / INVERSE_REGULARISATION["level"]
    penalty[-1, -1] = 0.0
    solution = np.linalg.solve(weighted.T @ features + penalty, weighted.T @ scores)
    predicted = np.column_stack([test, np.ones(len(test))]) @ solution
    return np.clip(np.rint(predicted), 0, len(LEVELS) - 1).astype(int)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoder", default=EMBEDDED_ENCODER)
    options = parser.parse_args()
    rows = read_labels(options.labels)
    embeddings = Encoder(options.encoder).embed([row.text for row in rows])
    first = np.unique(embeddings.document, return_index=True)[1]  # the first window of each text
    vectors, scores = embeddings.vectors[first].astype(np.float64), np.array([row.score for row in rows])
    print("| head | macro F1 | recall@1 | precision@1 | recall@3 | precision@3 |\n|---|---|---|---|---|---|")
    for name, fit in (("multiclass", multiclass), ("regression", regression)):
        values = []
        for seed in range(options.seeds):
            fold = np.random.default_rng(seed).permutation(len(rows)) % options.folds
            predicted = np.zeros(len(rows), dtype=int)
            with one_thread():
                for held in range(options.folds):
                    keep = fold != held
                    predicted[~keep] = fit(vectors[keep], scores[keep], vectors[~keep])
            confusion = confusion_matrix(scores.tolist(), predicted.tolist())
            at = [float(measure(confusion, level)) for level in (1, 3) for measure in (recall_at, precision_at)]
            values.append([float(macro_f1(confusion)), *at])
        cells = [
            f"{mean:.3f} +- {spread:.3f}" for mean, spread in zip(np.mean(values, 0), np.std(values, 0), strict=True)
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
