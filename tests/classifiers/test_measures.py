"""Measures against the published confusion matrices, against scikit-learn, and by identities that hold for any matrix."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from classifiers.measures import (
    confusion_matrices,
    confusion_matrix,
    corrected_precision_interval,
    exact_interval,
    false_positive_rate_at,
    macro_f1,
    percentile_interval,
    precision_at,
    precision_at_prevalence,
    recall_at,
    resample_weights,
    share_interval,
)

# The two of the paper's matrices that agree with its Table 4 (rows: true levels 0-5, columns: given ones).
GTE = [[2357, 103, 56, 12, 9, 11], [59, 32, 39, 13, 4, 4], [30, 29, 49, 33, 3, 7], [5, 9, 23, 24, 9, 10]]
GTE += [[3, 1, 2, 7, 8, 12], [5, 0, 0, 3, 2, 28]]
QWEN = [[1927, 282, 319, 11, 9, 0], [16, 47, 76, 9, 1, 2], [20, 28, 80, 18, 5, 0], [7, 15, 35, 8, 13, 2]]
QWEN += [[0, 2, 6, 12, 11, 2], [5, 0, 2, 4, 14, 13]]

levels = st.integers(0, 5)
pairs = st.lists(st.tuples(levels, levels), min_size=1, max_size=60)


@pytest.mark.parametrize(("matrix", "published"), [(GTE, (0.4114, 0.7748, 0.6821)), (QWEN, (0.3492, 0.8940, 0.5232))])
def test_published_confusion_matrices_give_the_published_numbers(matrix, published):
    confusion = np.array(matrix)
    found = macro_f1(confusion), recall_at(confusion, 1), recall_at(confusion, 3)
    np.testing.assert_allclose(found, published, atol=5e-5)


@settings(deadline=None, max_examples=50)  # scikit-learn's first call is slow
@given(pairs)
def test_measures_are_those_of_scikit_learn(rows):
    true, predicted = map(np.array, zip(*rows, strict=True))
    confusion = confusion_matrix(true.tolist(), predicted.tolist())
    assert macro_f1(confusion) == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))
    for level in (1, 3):
        unsafe, flagged = true >= level, predicted >= level
        if unsafe.any():
            assert recall_at(confusion, level) == pytest.approx(recall_score(unsafe, flagged))
        if flagged.any():
            assert precision_at(confusion, level) == pytest.approx(precision_score(unsafe, flagged))


@given(pairs, st.sampled_from([1, 3]))
def test_precision_at_the_prevalence_of_the_rows_is_their_precision(rows, level):
    true, predicted = map(list, zip(*rows, strict=True))
    confusion = confusion_matrix(true, predicted)
    prevalence = sum(t >= level for t in true) / len(true)
    if 0 < prevalence < 1:
        found = precision_at_prevalence(
            recall_at(confusion, level), false_positive_rate_at(confusion, level), prevalence
        )
        np.testing.assert_allclose(found, precision_at(confusion, level))


@given(pairs)
def test_recall_falls_and_a_perfect_classifier_has_everything(rows):
    true, predicted = map(list, zip(*rows, strict=True))
    bolder = confusion_matrix(true, [min(level + 1, 5) for level in predicted])
    perfect = confusion_matrix(true, true)
    assert macro_f1(perfect) == 1.0
    for level in (1, 3):
        if any(t >= level for t in true):
            assert recall_at(bolder, level) >= recall_at(confusion_matrix(true, predicted), level)
            assert recall_at(perfect, level) == precision_at(perfect, level) == 1.0


def test_rarer_harm_means_lower_precision():
    values = [float(precision_at_prevalence(0.9, 0.1, prevalence)) for prevalence in (0.5, 0.25, 0.02)]
    assert values == pytest.approx([0.9, 0.75, 0.018 / (0.018 + 0.098)])
    assert np.isnan(precision_at_prevalence(0.0, 0.0, 0.5))
    with pytest.raises(ValueError, match="prevalence 1"):
        precision_at_prevalence(0.9, 0.1, 1.0)


def test_what_cannot_be_measured_is_nan():
    safe = confusion_matrix([0, 0], [0, 0])
    assert np.isnan(recall_at(safe, 1)) and np.isnan(precision_at(safe, 1))
    assert macro_f1(safe) == 1.0
    with pytest.raises(ValueError, match="2 true levels and 1"):
        confusion_matrix([0, 1], [0])
    with pytest.raises(ValueError, match="from 0 to 5"):
        confusion_matrix([6], [0])


def test_resamples_depend_on_seed_and_id_alone():
    ids = [f"row-{number}" for number in range(50)]
    weights = resample_weights(ids, 200, 0)
    assert weights.shape == (200, 50)
    np.testing.assert_array_equal(resample_weights(ids[::-1], 200, 0), weights[:, ::-1])
    np.testing.assert_array_equal(resample_weights(ids[:7], 200, 0), weights[:, :7])
    assert (resample_weights(ids, 200, 1) != weights).any()
    assert weights.mean() == pytest.approx(1.0, abs=0.03) and weights.var() == pytest.approx(1.0, abs=0.06)


def test_bootstrap_of_a_share_is_as_wide_as_theory_says():
    true, predicted = [1] * 400, [1] * 300 + [0] * 100
    weights = resample_weights([str(number) for number in range(400)], 2000, 0)
    found = percentile_interval(0.75, recall_at(confusion_matrices(true, predicted, weights), 1))
    width = 2 * 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert found.high - found.low == pytest.approx(width, rel=0.1)
    assert found.low < 0.75 < found.high


def test_exact_interval_covers_as_stated():
    """Clopper and Pearson's bounds: at the lower one, as many hits or more have probability 2.5 %."""
    from scipy.stats import binom

    found = exact_interval(8, 10)
    assert binom.sf(7, 10, found.low) == pytest.approx(0.025)
    assert binom.cdf(8, 10, found.high) == pytest.approx(0.025)
    assert exact_interval(0, 10).low == 0.0 and exact_interval(10, 10).high == 1.0
    assert np.isnan(exact_interval(0, 0).value)


def test_no_certainty_from_a_few_texts_that_were_all_right():
    same = np.ones(100)
    assert share_interval(3, 3, same).low == pytest.approx(0.025 ** (1 / 3))
    assert share_interval(2, 4, np.linspace(0, 1, 101)).low == pytest.approx(0.025)
    never_wrong = corrected_precision_interval(exact_interval(8, 10), exact_interval(0, 50), same, 0.02)
    assert never_wrong.value == 1.0 and never_wrong.low < 0.25
