"""Which gate threshold may be promised: exact binomial bounds on recall, thresholds tested in a fixed sequence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from classifiers.errors import DataError


def clopper_pearson_lower(hits: int, trials: int, confidence: float) -> float:
    """One-sided exact lower confidence bound of a proportion (Clopper and Pearson 1934).

    The p at which `hits` or more successes in `trials` have probability 1 - confidence; 0 where there is no success.
    Raises ValueError outside 0 <= hits <= trials, trials >= 1, 0 < confidence < 1.
    """
    if not (trials >= 1 and 0 <= hits <= trials and 0.0 < confidence < 1.0):
        raise ValueError(f"{hits} hits in {trials} trials at confidence {confidence}: no such proportion")
    if hits == 0:
        return 0.0
    from scipy.special import betaincinv

    return float(betaincinv(hits, trials - hits + 1, 1.0 - confidence))


def positives_needed(target: float, confidence: float) -> int:
    """Fewest positives, none of them missed, whose lower bound reaches `target`: target ** n <= 1 - confidence."""
    if target >= 1.0:
        return 1
    return math.ceil(math.log(1.0 - confidence) / math.log(target) - 1e-12)


def allowed_misses(positives: int, target: float, confidence: float) -> int:
    """Most misses among `positives` at which the lower bound of recall still reaches `target`; -1 where none does."""
    if positives == 0 or clopper_pearson_lower(positives, positives, confidence) < target:
        return -1
    misses = 0
    while clopper_pearson_lower(positives - misses - 1, positives, confidence) >= target:
        misses += 1
    return misses


@dataclass(frozen=True)
class Promise:
    """What a gate keeps at one level: recall of documents at `level` or above is at least `target`, with confidence.

    `threshold`: a chunk passes at this gate score and above; `positives` and `missed` count calibration documents;
    `recall` is their share that passes, `lower_bound` its one-sided Clopper-Pearson bound.
    """

    level: int
    target: float
    threshold: float
    positives: int
    missed: int
    recall: float
    lower_bound: float


def choose_threshold(scores: Sequence[float], level: int, target: float | None, confidence: float) -> Promise:
    """The highest threshold whose recall is at least `target` with one-sided `confidence`.

    `scores`: for each document that is truly at `level` or above, the gate score at which it just passes. Thresholds
    are tested from the lowest upwards, each against "recall is below the target" with an exact binomial test, and the
    first that is not rejected ends the sequence: fixed-sequence testing in Learn then Test (Angelopoulos et al. 2021,
    arXiv 2110.01052), so choosing on the same documents costs nothing of the confidence. Recall falls with the
    threshold, so this is the highest threshold whose Clopper-Pearson bound reaches the target.
    The promise holds for documents drawn like the calibration documents, and for each level by itself: that two levels
    hold together has confidence 1 - 2 (1 - confidence). Raises DataError where there are too few positives.
    """
    ordered = sorted(scores)
    if target is None:
        target = clopper_pearson_lower(len(ordered), len(ordered), confidence) if ordered else 1.0
    misses = allowed_misses(len(ordered), target, confidence)
    if misses < 0:
        raise DataError(
            f"calibrating score >= {level}: {len(ordered)} documents of the data reach it; a recall of {target:g} with "
            f"{confidence:.0%} confidence needs at least {positives_needed(target, confidence)}. "
            "Give it more documents, or state a lower target"
        )
    threshold = ordered[misses]
    missed = sum(score < threshold for score in ordered)  # fewer than `misses` where scores are tied
    hits = len(ordered) - missed
    return Promise(
        level,
        target,
        threshold,
        len(ordered),
        missed,
        hits / len(ordered),
        clopper_pearson_lower(hits, len(ordered), confidence),
    )


def recall_curve(scores: Sequence[float], confidence: float, points: int) -> list[tuple[float, float, float]]:
    """(threshold, recall, lower bound) at up to `points` thresholds, evenly spaced over the sorted scores, ascending."""
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    chosen = sorted({len(ordered) * point // points for point in range(points)})
    curve = []
    for threshold in np.unique(ordered[chosen]).tolist():
        hits = int((ordered >= threshold).sum())
        curve.append((threshold, hits / len(ordered), clopper_pearson_lower(hits, len(ordered), confidence)))
    return curve
