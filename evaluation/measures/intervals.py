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


def wilson_interval(successes: float, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """A share with Wilson's score interval (1927): (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).

    successes: a fraction where it is a sum of shares. Raises ValueError unless 0 <= successes <= n.
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
    values: Sequence[float],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
    value_range: tuple[float, float] | None = None,
) -> Estimate:
    """The mean with a percentile bootstrap interval; the same values, in the same order, give the same interval.

    Resamples of equal values are equal, and a bootstrap would claim certainty: such values have Wilson's interval, scaled to
    the `value_range` that they could come from, and where that is unknown no interval (nan, method "none").
    """
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, "bootstrap")
    if all_equal(values):
        value = float(np.mean(values))
        if value_range is None:
            return Estimate(value, math.nan, math.nan, n, "none")
        low, high = equal_values_interval(values[0], n, value_range, confidence)
        return Estimate(value, low, high, n, "scaled wilson")
    means = bootstrap_counts(n, resamples, seed) @ np.asarray(values, dtype=np.float64) / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(np.mean(values)), float(low), float(high), n, "bootstrap")


def all_equal(values: Sequence[float] | np.ndarray, size: float | None = None) -> bool:
    """Whether values, at least one, differ by no more than rounding. `size`: of the numbers that they were computed from, the
    largest of the values unless given."""
    found = np.asarray(values, dtype=np.float64)
    return bool(np.ptp(found) <= 1e-12 * (float(np.abs(found).max()) if size is None else size))


def equal_values_interval(
    value: float, n: int, value_range: tuple[float, float], confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """(low, high) of the mean of n equal values in [a, b]: a + (b - a) w, w Wilson's bounds of the share (value - a)/(b - a).

    No variable in [a, b] of that mean has a larger variance than the one that is a or b (Bhatia and Davis 2000, A better bound
    on the variance): rather too wide than too narrow. Raises ValueError for a value outside the range.
    """
    start, end = value_range
    if not start <= value <= end:
        raise ValueError(f"a value of {value:g}: expected one in the range {start:g} to {end:g} that was given")
    wilson = wilson_interval(n * ((value - start) / (end - start)), n, confidence)
    return start + (end - start) * wilson.low, start + (end - start) * wilson.high


def bootstrap_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """[resamples, n]: how often each of n observations is drawn in each resample of n."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
