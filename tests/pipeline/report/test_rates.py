"""The card's formulas against numbers worked by hand, scipy's other routes, and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.report.rates import (
    Interval,
    design_effect,
    mean_rate_per_phrase,
    poisson_limits,
    rate_interval,
    rate_per_million,
    wilson_interval,
)


def test_c1_sum_and_mean_over_phrases() -> None:
    assert rate_per_million(3, 2_500_000) == pytest.approx(1.2)
    assert mean_rate_per_phrase(3, 2_500_000, 4) == pytest.approx(0.3)


def test_garwood_limits_are_those_of_the_tables() -> None:
    assert poisson_limits(0) == (0.0, pytest.approx(-math.log(0.025)))
    assert poisson_limits(3) == pytest.approx((0.6187, 8.7673), abs=1e-4)
    low, high = poisson_limits(17)
    assert stats.poisson.sf(16, low) == pytest.approx(0.025) and stats.poisson.cdf(17, high) == pytest.approx(0.025)


def test_wilson_interval_agrees_with_scipy_and_stays_in_the_unit_interval() -> None:
    for successes, trials in ((0, 10), (3, 10), (10, 10), (453, 3001)):
        expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
        got = wilson_interval(successes, trials)
        assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert 0 <= got.low <= got.value <= got.high <= 1


def test_design_effect_by_hand_and_its_floor() -> None:
    hits, tokens = np.array([6, 0, 0, 0]), np.array([10, 10, 10, 10])
    # r = 0.15, residuals 4.5, -1.5 x3: sum of squares 27, times 4/3, over 6 hits
    assert design_effect(4, 40, 400, 6, int((hits**2).sum()), int((hits * tokens).sum())) == pytest.approx(6.0)
    assert design_effect(4, 40, 400, 4, 4, 40) == 1.0
    assert design_effect(1, 10, 100, 5, 25, 50) == design_effect(9, 90, 900, 0, 0, 0) == 1.0


def test_clustering_widens_the_interval_around_the_same_rate() -> None:
    plain, clustered = rate_interval(40, 10**6), rate_interval(40, 10**6, effect=4.0)
    assert plain.value == clustered.value == 40
    assert clustered.low < plain.low < 40 < plain.high < clustered.high
    assert rate_interval(0, 10**6) == Interval(0.0, 0.0, pytest.approx(3.6889, abs=1e-4))


def test_intervals_cover_the_true_rate_of_clustered_documents() -> None:
    """500 corpora of 400 documents whose hits come in bursts: Poisson intervals would cover about 70 %."""
    rng = np.random.default_rng(0)
    covered = poisson_covered = 0
    for _ in range(500):
        tokens = rng.integers(50, 500, 400)
        bursts = rng.poisson(0.004 * tokens / 5)
        hits = bursts * 5
        total = int(hits.sum())
        squares = (int((tokens**2).sum()), total, int((hits**2).sum()), int((hits * tokens).sum()))
        effect = design_effect(400, int(tokens.sum()), *squares)
        interval = rate_interval(total, int(tokens.sum()), effect)
        plain = rate_interval(total, int(tokens.sum()))
        covered += interval.low <= 4000 <= interval.high
        poisson_covered += plain.low <= 4000 <= plain.high
    assert covered >= 0.92 * 500 and poisson_covered < 0.85 * 500


def test_overlap() -> None:
    assert Interval(1, 0, 2).overlaps(Interval(3, 2, 4)) and not Interval(1, 0, 2).overlaps(Interval(3, 2.5, 4))
