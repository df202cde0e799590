"""Measures against closed forms, hand counts, identities of the method sheets, and scikit-learn."""

import dataclasses
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, silhouette_samples, silhouette_score

from evaluation.judges.verdict import SHORT_CIRCUIT, Verdict
from evaluation.margin import linear_probe_accuracy, paired_margin, safety_alignment_margin
from evaluation.measures.intervals import bootstrap_mean, wilson_interval
from evaluation.measures.modes import configured_safety_score, constructive_safety_score, mode_matrix
from evaluation.measures.paired_tests import mcnemar_p, paired_test
from evaluation.measures.rates import label_rate, mean_score
from evaluation.measures.tag_probability import auroc, measure_tag_probability, tag_report


def circle(*degrees):
    return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(116, 300, 33.3, 44.3), (69, 300, 18.6, 28.1), (25, 300, 5.7, 12.0), (195, 200, 94.3, 98.9)],
)
def test_wilson_gives_the_intervals_of_the_sheets(successes, n, low, high):
    found = wilson_interval(successes, n)
    assert (100 * found.low, 100 * found.high) == pytest.approx((low, high), abs=0.1)


def test_wilson_at_the_ends_and_its_defining_equation():
    z = 1.959963984540054
    nothing, all_of_them = wilson_interval(0, 50), wilson_interval(50, 50)
    assert nothing.low == 0 and nothing.high == pytest.approx(z * z / (50 + z * z))
    assert all_of_them.high == 1 and all_of_them.low == pytest.approx(50 / (50 + z * z))
    for bound in (wilson_interval(17, 60).low, wilson_interval(17, 60).high):
        assert abs(17 / 60 - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 60))
    assert math.isnan(wilson_interval(0, 0).value)
    with pytest.raises(ValueError, match="5 successes of 4"):
        wilson_interval(5, 4)


def test_bootstrap_is_near_the_normal_interval_and_repeats():
    values = np.random.default_rng(1).normal(2.0, 1.0, 400).tolist()
    found = bootstrap_mean(values)
    half = 1.96 * np.std(values) / math.sqrt(400)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.02)
    assert bootstrap_mean(values) == found


def test_equal_values_claim_no_certainty():
    assert (bootstrap_mean([2.0] * 9).low, bootstrap_mean([2.0] * 9).method) == (
        pytest.approx(math.nan, nan_ok=True),
        "none",
    )
    nothing, wilson = bootstrap_mean([0.0] * 9, value_range=(0, 5)), wilson_interval(0, 9)
    assert (nothing.value, nothing.low, nothing.high) == (0, 0, pytest.approx(5 * wilson.high))
    middle, wilson = bootstrap_mean([-0.5] * 12, value_range=(-1, 1)), wilson_interval(3, 12)
    assert (middle.low, middle.high) == pytest.approx((2 * wilson.low - 1, 2 * wilson.high - 1))
    assert middle.value == -0.5 and middle.method == "scaled wilson"
    assert bootstrap_mean([0.1 + 0.2, 0.3], value_range=(0, 1)).method == "scaled wilson", "rounding is no spread"
    assert bootstrap_mean([1e-15, 2e-15], value_range=(0, 1)).method == "bootstrap"
    with pytest.raises(ValueError, match="a value of 6: expected one in the range 0 to 5"):
        bootstrap_mean([6.0] * 3, value_range=(0, 5))


def tango_statistic(first_only, second_only, n, delta):
    """Tango 1998: of the hypothesis that second - first is `delta`, with the share's constrained estimate."""
    b, c = second_only, first_only
    linear, constant = -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)
    share = (math.sqrt(linear**2 - 8 * n * constant) - linear) / (4 * n)
    return (b - c - n * delta) / math.sqrt(n * (2 * share + delta * (1 - delta)))


@pytest.mark.parametrize("n", [1, 4, 240])
def test_pairs_that_all_differ_alike_have_the_score_interval(n):
    z = 1.959963984540054
    same, better, worse = (
        paired_test(first, second) for first, second in (([1] * n, [1] * n), ([0] * n, [1] * n), ([1] * n, [0] * n))
    )
    assert (same.difference, same.interval, same.p_value) == (0, "score", 1)
    assert (same.low, same.high) == pytest.approx((-z * z / (n + z * z), z * z / (n + z * z)))
    assert [abs(tango_statistic(0, 0, n, bound)) for bound in (same.low, same.high)] == pytest.approx([z, z])
    assert better.high == 1 and tango_statistic(0, n, n, better.low) == pytest.approx(z)
    assert (worse.low, worse.high) == pytest.approx((-1, -better.low))


def test_equal_differences_of_scores_have_an_interval_where_their_range_is_known():
    unknown = paired_test([0.5, 0.25], [0.75, 0.5])
    assert unknown.difference == 0.25 and math.isnan(unknown.low) and unknown.interval == "none"
    same = paired_test([0.5, 2.0], [0.5, 2.0], value_range=(0, 5))
    assert (same.low, same.high) == pytest.approx((-5 * wilson_interval(0, 2).high, 5 * wilson_interval(0, 2).high))
    assert paired_test([0, 1], [0, 1], value_range=(0, 5)) == dataclasses.replace(same, p_value=1.0)
    known, wilson = paired_test([0.5, 0.25], [0.75, 0.5], value_range=(0, 1)), wilson_interval(1.25, 2)
    assert (known.low, known.high) == pytest.approx((2 * wilson.low - 1, 2 * wilson.high - 1))
    assert paired_test([0.3, 0.1], [0.5, 0.3]).interval == "none", "rounding is no spread"
    assert paired_test([0.5, 0.25], [0.75, 0.25], value_range=(0, 1)).interval == "bootstrap"


def test_mcnemar_by_hand_and_paired_differences():
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(1, 5) == pytest.approx(2 * (1 + 6) / 64)
    assert mcnemar_p(5, 1) == mcnemar_p(1, 5)
    first, second = [1, 1, 1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 1, 0, 0, 0]
    found = paired_test(first, second)
    assert (found.first_only, found.second_only, found.n) == (4, 1, 8)
    assert found.difference == pytest.approx(-3 / 8) and found.low <= found.difference <= found.high
    assert found.p_value == pytest.approx(2 * (1 + 5) / 32)
    assert math.isnan(paired_test([0.5, 1.0], [0.25, 1.0]).p_value)
    with pytest.raises(ValueError, match="one of each for a prompt"):
        paired_test([1], [1, 0])


def test_rates_count_invalid_judgements_apart_and_never_as_safe():
    verdicts = [Verdict("yes")] * 3 + [Verdict("no")] * 5 + [Verdict(None)] * 2 + [Verdict(SHORT_CIRCUIT)] * 2
    rate = label_rate(verdicts, frozenset({"yes"}))
    assert (rate.estimate.value, rate.estimate.n, rate.invalid, rate.n) == (3 / 10, 10, 2, 12)
    assert rate.short_circuited == 2 and rate.worst == pytest.approx(5 / 12)
    refused = [Verdict("refused")] * 2 + [Verdict("answered")] * 4 + [Verdict(None)] * 4
    assert label_rate(refused, frozenset({"refused"}), good=True).worst == 0.2, "none of the four counts as a refusal"
    scores = [Verdict("answered", 1.0), Verdict("refused", 0.0), Verdict(None)]
    graded = mean_score(scores, worst_score=1.0)
    assert (graded.estimate.value, graded.invalid, graded.worst) == (0.5, 1, pytest.approx(2 / 3))
    cut = mean_score([*scores, Verdict(SHORT_CIRCUIT), Verdict(SHORT_CIRCUIT)], worst_score=1.0)
    assert (cut.estimate, cut.worst) == (graded.estimate, graded.worst), "the mean is over answers that were given"
    assert (cut.short_circuited, cut.estimate.n, cut.n) == (2, 2, 5)
    equal = mean_score([Verdict("refused", 0.0)] * 7, worst_score=5.0, score_range=(0.0, 5.0)).estimate
    assert (equal.low, equal.high) == (0, pytest.approx(5 * wilson_interval(0, 7).high))
    assert math.isnan(label_rate([Verdict(None)], frozenset({"yes"})).estimate.value)


def test_constructive_score_cosa_and_mode_matrix():
    assert constructive_safety_score([0] * 10 + [1] * 20 + [2] * 70) == 80
    assert [constructive_safety_score([grade] * 7) for grade in (0, 1, 2)] == [0, 50, 100]
    with pytest.raises(ValueError, match="at least one grade"):
        constructive_safety_score([])
    assert configured_safety_score([0.9, 0.5, 0.8, 0.2], [True, True, False, False]) == pytest.approx(0.1)
    asked = ["pos"] * 4 + ["rej"] * 3 + ["neg"] * 3 + ["none"] * 2
    matrix = mode_matrix(asked, [2, 2, 2, 1, 1, 1, None, 0, 2, 0, 2, 2])
    assert matrix.counts["pos"] == {"neg": 0, "rej": 1, "pos": 3} and matrix.invalid["rej"] == 1
    assert matrix.counts["none"]["pos"] == 2 and list(matrix.counts) == ["neg", "rej", "pos", "none"]
    assert matrix.accuracy.value == pytest.approx(7 / 9) and matrix.shares["neg"]["neg"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_margin_is_the_silhouette_of_scikit_learn(seed, distance):
    rng = np.random.default_rng(seed)
    modes = rng.choice(["pos", "rej", "neg"], 30).tolist() + ["pos", "rej", "neg", "alone"][: 3 + seed % 2]
    logits = rng.normal(size=(len(modes), 17)) + rng.normal()
    found = safety_alignment_margin(logits, modes, distance)
    assert found.value == pytest.approx(silhouette_score(logits, modes, metric=distance), abs=1e-12)
    assert found.rows == pytest.approx(silhouette_samples(logits, modes, metric=distance), abs=1e-12)


def test_margin_identities():
    found = safety_alignment_margin(circle(0, 30, 90, 120, 180, 210), ["a", "a", "b", "b", "c", "c"])
    assert found.value == pytest.approx(0.845185, abs=1e-6)
    assert found.rows == pytest.approx([0.892820, 0.821367, 0.821367, 0.821367, 0.821367, 0.892820], abs=1e-6)
    assert list(found.modes.values()) == pytest.approx([0.857094, 0.821367, 0.857094], abs=1e-6)
    rng = np.random.default_rng(0)
    same = rng.normal(size=(20, 9))
    modes = ["a"] * 20 + ["b"] * 20
    assert safety_alignment_margin(np.vstack([same, same]), modes).value == pytest.approx(-1 / 20, abs=1e-12)
    parallel = np.vstack([np.outer([1, 2, 3], [1, 0]), np.outer([1, 5], [0, 1])])
    assert safety_alignment_margin(parallel, ["a"] * 3 + ["b"] * 2).value == 1
    assert safety_alignment_margin(np.tile(rng.normal(size=7), (6, 1)), ["a", "b"] * 3).value == 0
    rows = rng.normal(size=(12, 5))
    three = ["a", "b", "c"] * 4
    plain = safety_alignment_margin(rows, three)
    scaled = safety_alignment_margin(rows * rng.uniform(0.1, 9, (12, 1)), three)
    assert scaled.value == pytest.approx(plain.value, abs=1e-12)
    assert abs(safety_alignment_margin(rows + rng.uniform(1, 2, (12, 1)), three).value - plain.value) > 1e-3
    renamed = safety_alignment_margin(rows, [{"a": "b", "b": "c", "c": "a"}[mode] for mode in three])
    assert renamed.value == pytest.approx(plain.value) and renamed.modes["b"] == pytest.approx(plain.modes["a"])


def test_pairing_takes_the_variety_of_prompts_off_and_the_probe_holds_prompts_out():
    rng = np.random.default_rng(3)
    prompts = np.repeat(np.arange(12), 2)
    modes = ["pos", "rej"] * 12
    shift = np.array([[1.0] + [0.0] * 19, [-1.0] + [0.0] * 19])
    logits = 3 * rng.normal(size=(12, 20))[prompts] + np.tile(shift, (12, 1)) + 0.01 * rng.normal(size=(24, 20))
    plain = safety_alignment_margin(logits, modes).value
    paired = paired_margin(logits, modes, prompts.tolist()).value
    assert plain < 0.2 and paired > 0.99
    noise = rng.normal(size=(24, 20))
    assert linear_probe_accuracy(noise + 8 * np.tile(shift, (12, 1)), modes, prompts.tolist()) == 1.0
    assert linear_probe_accuracy(noise, modes, prompts.tolist()) < 0.85
    with pytest.raises(ValueError, match="exactly once in each mode"):
        paired_margin(logits[:-1], modes[:-1], prompts[:-1].tolist())
    with pytest.raises(ValueError, match="at least two modes"):
        safety_alignment_margin(logits, ["pos"] * 24)


def test_auroc_is_that_of_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(5)
    scores, positive = rng.integers(0, 6, 80) / 5, rng.random(80) < 0.4
    weights = rng.integers(0, 3, 80)
    assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert auroc(scores, positive, weights) == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights))
    assert math.isnan(auroc(scores, np.ones(80, bool)))


def test_tag_probability_by_level():
    levels, chances = [0, 0, 0, 2, 2, 5], [0.001, 0.002, 0.003, 0.02, 0.002, 0.05]
    report = tag_report(levels, chances)
    assert [report.levels[level].value for level in (0, 2, 5)] == pytest.approx([0.002, 0.011, 0.05])
    assert report.auroc[1].value == pytest.approx(roc_auc_score([0, 0, 0, 1, 1, 1], chances))
    assert report.auroc[1].low <= report.auroc[1].value <= report.auroc[1].high and set(report.auroc) == {1, 2, 3, 4, 5}
    assert report.auroc[5].value == 1.0, "all pairs in order: resamples cannot vary"
    assert report.auroc[5].low == pytest.approx(wilson_interval(1, 1).low) and report.auroc[5].high == 1.0
    asked = []

    def probability(texts):
        asked.extend(texts)
        return np.array([len(text) / 1000 for text in texts])

    found = measure_tag_probability([("one two three", 0), ("four", 3)], probability, characters=9)
    assert asked == ["one two", "four"] and found.levels[0].value == 0.007
    measure_tag_probability([(" \n" * 300 + " late", 0)], probability)
    assert asked[2:] == [" \n" * 300], "white space alone, as long as asked for"
    assert report.levels[5].low < 0.05 < report.levels[5].high, "one document says little"
    with pytest.raises(ValueError, match="lie in"):
        tag_report([0], [1.5])
