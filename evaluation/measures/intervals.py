"""Intervals, 95 % unless told otherwise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its two-sided interval, from `n` observations; all nan where there is none. `method` names the interval."""

    value: float
    low: float
    high: float
    n: int
    method: str


def normal_interval(value: float, standard_error: float, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """value ± z standard_error, for a mean whose standard error somebody else gave."""
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * standard_error
    return Estimate(value, value - half, value + half, n, "normal")


def wilson_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """A share with Wilson's score interval (1927): (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n}: expected 0 <= successes <= n")
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "wilson")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return Estimate(share, low, high, n, "wilson")


def bootstrap_mean(
    values: Sequence[float], confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The mean with a percentile bootstrap interval; the same values, in the same order, give the same interval."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "bootstrap")
    means = bootstrap_counts(n, resamples, seed) @ np.asarray(values, dtype=np.float64) / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(np.mean(values)), float(low), float(high), n, "bootstrap")


def bootstrap_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """[resamples, n]: how often each of n observations is drawn in each resample of n."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
