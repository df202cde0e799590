"""Measures of a classifier as pure functions of confusion matrices [..., 6, 6]: rows are the true levels, columns the given
ones. Leading axes are resamples, so one call measures all resamples of a bootstrap."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from classifiers.rubric import LEVELS

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A measured value with its two-sided 95 % interval; all three are nan where nothing could be measured."""

    value: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def confusion_matrix(true: Sequence[int], predicted: Sequence[int]) -> np.ndarray:
    """Counts [6, 6] of (true level, given level). Raises ValueError where the lengths differ or a level is unknown."""
    return confusion_matrices(true, predicted, np.ones((1, len(true))))[0]


def confusion_matrices(true: Sequence[int], predicted: Sequence[int], weights: np.ndarray) -> np.ndarray:
    """[resamples, 6, 6] of `weights` [resamples, rows]: how often each row counts in each resample. Raises as above."""
    classes = len(LEVELS)
    if len(true) != len(predicted):
        raise ValueError(f"{len(true)} true levels and {len(predicted)} given ones: expected one of each for a text")
    if not all(level in range(classes) for level in (*true, *predicted)):
        raise ValueError(f"levels must be whole numbers from 0 to {classes - 1}")
    cell = np.asarray(true, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    return (weights @ np.eye(classes * classes)[cell]).reshape(-1, classes, classes)


def recall_counts(confusion: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """(texts truly at `level` or above that are given `level` or above, texts truly at `level` or above)."""
    return confusion[..., level:, level:].sum(axis=(-2, -1)), confusion[..., level:, :].sum(axis=(-2, -1))


def precision_counts(confusion: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """(texts given `level` or above that truly are, texts given `level` or above)."""
    return recall_counts(confusion.swapaxes(-2, -1), level)


def false_positive_counts(confusion: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """(texts truly below `level` that are given `level` or above, texts truly below `level`)."""
    return confusion[..., :level, level:].sum(axis=(-2, -1)), confusion[..., :level, :].sum(axis=(-2, -1))


def share(hits: np.ndarray, total: np.ndarray) -> np.ndarray:
    """hits / total; nan where the total is 0."""
    return np.where(total > 0, hits / np.where(total > 0, total, 1), np.nan)


def recall_at(confusion: np.ndarray, level: int) -> np.ndarray:
    """Share of the texts truly at `level` or above that are given `level` or above (paper, Table 4); nan without any."""
    return share(*recall_counts(confusion, level))


def precision_at(confusion: np.ndarray, level: int) -> np.ndarray:
    """Share of the texts given `level` or above that truly are; nan without any."""
    return share(*precision_counts(confusion, level))


def false_positive_rate_at(confusion: np.ndarray, level: int) -> np.ndarray:
    """Share of the texts truly below `level` that are given `level` or above; nan without any."""
    return share(*false_positive_counts(confusion, level))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean, over the levels that occur as a true or as a given one, of F1 = 2 hits / (true + given) (paper, Table 4).

    A level that occurs in neither says nothing about the classifier and is left out; nan for no texts at all.
    """
    sizes = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    hits = 2 * np.diagonal(confusion, axis1=-2, axis2=-1)
    return share(share(hits, sizes + (sizes == 0)).sum(axis=-1), (sizes > 0).sum(axis=-1))


def precision_at_prevalence(
    recall: np.ndarray | float, false_positive_rate: np.ndarray | float, prevalence: float
) -> np.ndarray:
    """Precision where a share `prevalence` of the texts is positive, by Bayes' rule:

    recall * prevalence / (recall * prevalence + false positive rate * (1 - prevalence)); nan where nothing is found.
    Recall and false positive rate do not depend on the mix of the evaluated rows; their precision does.
    Raises ValueError for a prevalence outside (0, 1).
    """
    if not 0.0 < prevalence < 1.0:
        raise ValueError(f"prevalence {prevalence}: expected a share between 0 and 1, without the ends")
    found = np.asarray(recall * prevalence)
    return share(found, found + false_positive_rate * (1.0 - prevalence))


def resample_weights(ids: Sequence[str], resamples: int, seed: int) -> np.ndarray:
    """[resamples, rows]: how often each row counts in each resample, Poisson(1), as in the Poisson bootstrap.

    A row's draws depend on (seed, its id) alone: neither the order of the rows nor further rows change them, and two
    classifiers on the same rows are resampled alike. Rows with the same id are resampled together.
    """
    columns = np.empty((len(ids), resamples))
    for row, identifier in enumerate(ids):
        key = hashlib.blake2b(f"{seed}|bootstrap|{identifier}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        columns[row] = generator.poisson(1.0, resamples)
    return columns.T


def percentile_interval(value: float, resampled: np.ndarray) -> Interval:
    """The value with the 2.5 and 97.5 percentiles of the resampled ones; those that are nan are left out."""
    known = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(known):
        return NOTHING
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(value), float(low), float(high))


def exact_interval(hits: int, total: int) -> Interval:
    """A share with its Clopper-Pearson interval; nan without trials."""
    from scipy.special import betaincinv

    if total == 0:
        return NOTHING
    tail = (1 - CONFIDENCE) / 2
    low = betaincinv(hits, total - hits + 1, tail) if hits else 0.0
    high = betaincinv(hits + 1, total - hits, 1 - tail) if hits < total else 1.0
    return Interval(hits / total, float(low), float(high))


def share_interval(hits: int, total: int, resampled: np.ndarray) -> Interval:
    """A share with its bootstrap interval; exact where the share is 0 or 1: there no resample differs from it, and the
    bootstrap would claim certainty from however few texts."""
    if 0 < hits < total:
        return percentile_interval(hits / total, resampled)
    return exact_interval(hits, total)


def corrected_precision_interval(
    recall: Interval, false_positive_rate: Interval, resampled: np.ndarray, prevalence: float
) -> Interval:
    """Precision at a prevalence, with its bootstrap interval; where recall or false positive rate is 0 or 1, from the worst
    and the best corner of their intervals, which is wider."""
    value = float(precision_at_prevalence(recall.value, false_positive_rate.value, prevalence))
    if 0.0 < false_positive_rate.value < 1.0 and 0.0 < recall.value < 1.0:
        return percentile_interval(value, resampled)
    if np.isnan(value):
        return NOTHING
    low = precision_at_prevalence(recall.low, false_positive_rate.high, prevalence)
    return Interval(value, float(low), float(precision_at_prevalence(recall.high, false_positive_rate.low, prevalence)))
