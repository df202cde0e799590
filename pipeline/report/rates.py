"""The card's formulas: rates per million tokens, their intervals, and shares.

Pure functions of additive sums, so that a reader checks them against a textbook. Default confidence: 95 %, two-sided.
"""

import math
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with the two ends of its confidence interval, all in the same unit."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        """Whether the two intervals share a point."""
        return self.low <= other.high and other.low <= self.high

    def scaled(self, factor: float) -> "Interval":
        """The interval in another unit (`factor` > 0)."""
        return Interval(self.value * factor, self.low * factor, self.high * factor)


def rate_per_million(hits: int, tokens: int) -> float:
    """Hits per one million tokens, the *sum* over a category's phrases (arXiv 2504.16980, report card).

    `tokens` must be positive: a slice without text has no rate, and the caller says so.
    """
    return hits * 1e6 / tokens


def mean_rate_per_phrase(hits: int, tokens: int, phrases: int) -> float:
    """Hits per one million tokens, as the *mean* over the category's `phrases` phrases.

    The paper does not say whether its bars are sums or means; their size fits a mean (3 hits of 4 phrases in
    2.5M tokens: sum 1.2, mean 0.3).
    """
    return rate_per_million(hits, tokens) / phrases


def design_effect(
    documents: int, tokens: int, tokens_squared: int, hits: int, hits_squared: int, hits_tokens: int
) -> float:
    """How much wider than Poisson the count varies because hits come in clusters, one document at a time.

    Variance of the ratio estimator hits/tokens over documents (linearised, Cochran 1977, 6.3) divided by the Poisson
    variance: n/(n-1) * (sum h^2 - 2 r sum h*t + r^2 sum t^2) / sum h, with r = sum h / sum t. Never below 1, so that
    an interval is never narrower than the exact Poisson one; 1 where it cannot be estimated (no hit, one document).
    The sums are exact integers, hence additive over shards in any order.
    """
    if hits == 0 or documents < 2:
        return 1.0
    # Over the common denominator tokens^2 the sum of squared residuals is an exact integer: no cancellation.
    residual = hits_squared * tokens**2 - 2 * hits * tokens * hits_tokens + hits**2 * tokens_squared
    return max(1.0, documents * residual / ((documents - 1) * hits * tokens**2))


def poisson_limits(count: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact (Garwood 1936) limits of a Poisson mean after `count` events; zero events give (0, -ln(alpha/2)).

    `count` may be fractional: an effective count, hits / design effect.
    """
    from scipy.special import gammainccinv, gammaincinv  # slow to import, and every command comes past here

    tail = (1 - confidence) / 2
    low = float(gammaincinv(count, tail)) if count > 0 else 0.0
    return low, float(gammainccinv(count + 1, tail))


def rate_interval(hits: int, tokens: int, effect: float = 1.0, confidence: float = CONFIDENCE) -> Interval:
    """Rate per million tokens with its interval: Garwood on the effective count hits/effect, scaled back.

    With no hit the upper end is the exact Poisson bound; how hits cluster cannot be seen then.
    """
    low, high = poisson_limits(hits / effect, confidence)
    scale = effect * 1e6 / tokens
    return Interval(rate_per_million(hits, tokens), low * scale, high * scale)


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Share successes/trials with its Wilson (1927) score interval, in [0, 1]; `trials` must be positive."""
    from scipy.special import ndtri

    z = float(ndtri((1 + confidence) / 2))
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At 0 and 1 the ends are exact; rounding must not push the value out of its own interval.
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))
