"""Two models on the same prompts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.measures.intervals import (
    CONFIDENCE,
    RESAMPLES,
    all_equal,
    bootstrap_counts,
    equal_values_interval,
    wilson_interval,
)


@dataclass(frozen=True)
class PairedTest:
    """`difference` = mean of second - first over `n` pairs, with its interval. `first_only`, `second_only`: pairs in which only
    that one is 1; `p_value`: exact McNemar (two-sided), nan for values beside 0 and 1. `interval`: "bootstrap" (percentile);
    where all pairs differ alike "score" (`equal_differences_interval`), or "none" and nan."""

    difference: float
    low: float
    high: float
    n: int
    first_only: int
    second_only: int
    p_value: float
    interval: str


def mcnemar_p(first_only: int, second_only: int) -> float:
    """Exact two-sided McNemar test: min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2); 1 without discordant pairs."""
    if first_only < 0 or second_only < 0:
        raise ValueError(f"{first_only} and {second_only} discordant pairs: counts cannot be negative")
    n, fewer = first_only + second_only, min(first_only, second_only)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n))


def equal_differences_interval(
    difference: float, n: int, reach: float = 1.0, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """(low, high) of the mean difference where all n pairs differ alike, by `difference` in [-reach, reach].

    Of pairs of 0 and 1 it is Tango's score interval (1998, Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design), whose equation these solve: ±z²/(n + z²) where no pair is discordant,
    [(n - z²)/(n + z²), 1] where each is in the same way. Other values: the first, scaled to the reach, where none differ (it
    bounds the share of pairs that may), else `equal_values_interval`, which the second is a case of.
    """
    if difference == 0:
        half = reach * wilson_interval(0, n, confidence).high
        return -half, half
    return equal_values_interval(difference, n, (-reach, reach), confidence)


def paired_test(
    first: Sequence[float],
    second: Sequence[float],
    confidence: float = CONFIDENCE,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
) -> PairedTest:
    """The values of two models on the same prompts, in the same order. Raises ValueError where the lengths differ.

    value_range: what the values can be, for the interval where all pairs differ alike; without it [0, 1] where all values
    are 0 or 1, else that case has no interval.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)}: a paired test needs one of each for a prompt")
    n = len(first)
    if n == 0:
        return PairedTest(math.nan, math.nan, math.nan, 0, 0, 0, math.nan, "none")
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    low, high, interval = _interval(a, b, (0, 1) if value_range is None and binary else value_range, confidence, seed)
    first_only, second_only = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    p_value = mcnemar_p(first_only, second_only) if binary else math.nan
    return PairedTest(float((b - a).mean()), low, high, n, first_only, second_only, p_value, interval)


def _interval(
    a: np.ndarray, b: np.ndarray, value_range: tuple[float, float] | None, confidence: float, seed: int
) -> tuple[float, float, str]:
    """(low, high, its name): resamples of equal differences are equal, and a bootstrap would claim certainty."""
    if not all_equal(b - a, max(np.abs(a).max(), np.abs(b).max())):
        means = bootstrap_counts(len(a), RESAMPLES, seed) @ (b - a) / len(a)
        tail = (1 - confidence) / 2
        low, high = np.quantile(means, [tail, 1 - tail])
        return float(low), float(high), "bootstrap"
    if value_range is None:
        return math.nan, math.nan, "none"
    reach = value_range[1] - value_range[0]
    return *equal_differences_interval(float(b[0] - a[0]), len(a), reach, confidence), "score"
