"""AUROC by ranks, within sources, and its interval: identities and small cases by hand."""

import numpy as np
import pytest

from pretrain.auroc import auroc, average_ranks, bootstrap_interval, separation, share_of_source


def test_ranks_of_equal_values_are_shared():
    assert average_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_auroc_is_the_share_of_pairs_that_are_ordered():
    random = np.random.default_rng(0)
    for m, n in [(1, 1), (3, 5), (20, 7)]:
        unsafe, safe = random.integers(0, 6, m) / 5, random.integers(0, 6, n) / 5
        pairs = (unsafe[:, None] > safe).mean() + (unsafe[:, None] == safe).mean() / 2
        assert auroc(unsafe, safe) == pytest.approx(pairs)
        assert auroc(unsafe, safe) + auroc(safe, unsafe) == pytest.approx(1)
        assert auroc(np.exp(unsafe), np.exp(safe)) == auroc(unsafe, safe)
    assert auroc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert auroc(np.zeros(3), np.zeros(4)) == 0.5


def test_an_empty_side_is_refused():
    with pytest.raises(ValueError, match="not 2 unsafe and 0 safe"):
        auroc(np.ones(2), np.ones(0))


def test_sources_are_measured_by_themselves():
    # Overall the source decides; within "a" the value is perfect, within "b" it is upside down; "c" has one safe only.
    values = np.array([0.1, 0.2, 0.9, 0.8, 0.3, 0.5])
    scores = np.array([0, 4, 0, 3, 0, 1])
    sources = ["a", "a", "b", "b", "c", "c"]
    found = separation(values, scores, sources, 3, 1)
    assert found.by_source == {"a": 1.0, "b": 0.0}
    assert found.average == 0.5
    assert found.documents == {"a": (1, 1), "b": (1, 1)}
    assert found.overall == pytest.approx((1 + 0 + 0 + 1 + 0 + 1) / 6)
    assert separation(values, scores, sources, 1, 1).by_source == {"a": 1.0, "b": 0.0, "c": 1.0}
    nothing = separation(values[:1], scores[:1], sources[:1], 3, 1)
    assert nothing.overall is None and nothing.average is None


def test_share_of_source_ranks_nothing_within_a_source():
    scores, sources = np.array([0, 4, 4, 0, 0, 2]), ["a", "a", "a", "b", "b", "b"]
    shares = share_of_source(scores, sources, 3)
    assert shares.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0, 0, 0])
    assert separation(shares, scores, sources, 3, 1).by_source == {"a": 0.5}


def test_bootstrap_keeps_strata_and_covers_the_mean():
    values = np.random.default_rng(1).normal(size=400)
    strata = [number % 4 for number in range(400)]
    sizes = []

    def mean(numbers):
        sizes.append(np.bincount(numbers % 4).tolist())
        return float(values[numbers].mean())

    low, high = bootstrap_interval(mean, strata, 500, 7)
    assert set(map(tuple, sizes)) == {(100, 100, 100, 100)}
    # Four standard errors of the mean of 400 normal values wide, within a fifth.
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.2)
    assert low < values.mean() < high
    assert (low, high) == bootstrap_interval(mean, strata, 500, 7)
