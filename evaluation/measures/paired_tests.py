"""Two models on the same prompts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.measures.intervals import CONFIDENCE, RESAMPLES, bootstrap_counts


@dataclass(frozen=True)
class PairedTest:
    """`difference` = mean of second - first over `n` pairs, with a percentile bootstrap interval. `first_only`,
    `second_only`: pairs in which only that one is 1; `p_value`: exact McNemar (two-sided), nan for values beside 0 and 1."""

    difference: float
    low: float
    high: float
    n: int
    first_only: int
    second_only: int
    p_value: float


def mcnemar_p(first_only: int, second_only: int) -> float:
    """Exact two-sided McNemar test: min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2); 1 without discordant pairs."""
    if first_only < 0 or second_only < 0:
        raise ValueError(f"{first_only} and {second_only} discordant pairs: counts cannot be negative")
    n, fewer = first_only + second_only, min(first_only, second_only)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, float(2 * tail / 2**n))


def paired_test(
    first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE, seed: int = 0
) -> PairedTest:
    """The values of two models on the same prompts, in the same order. Raises ValueError where the lengths differ."""
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values and {len(second)}: a paired test needs one of each for a prompt")
    n = len(first)
    if n == 0:
        return PairedTest(math.nan, math.nan, math.nan, 0, 0, 0, math.nan)
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    means = bootstrap_counts(n, RESAMPLES, seed) @ (b - a) / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    binary = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    first_only, second_only = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    p_value = mcnemar_p(first_only, second_only) if binary else math.nan
    return PairedTest(float((b - a).mean()), float(low), float(high), n, first_only, second_only, p_value)
