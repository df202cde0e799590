"""Rubric, score, chunks, masking and ensemble: the rules that need no model (sheet: S1, S2, S3, S7)."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifiers.chunks import balanced_spans, bounded_text, encodable
from classifiers.decision import Decision, MostProbable
from classifiers.ensemble import combine
from classifiers.errors import ModelError
from classifiers.masking import mask_identifiers
from classifiers.rubric import (
    CARD_CATEGORIES,
    CARD_CATEGORY,
    CATEGORY_NAMES,
    LEVELS,
    NEVER_TRAIN_CATEGORIES,
    UNSAFE_CATEGORY_NAMES,
    rubric_sha256,
)
from classifiers.rubric_page import rubric_page
from classifiers.score import Score, score_from_chunks


def certain(level: int, category: str = "hate", probability: float = 0.5) -> Score:
    return Score(level, tuple(float(i == level) for i in range(6)), category if level else "none", probability, 1)


def test_rubric_has_six_levels_and_the_agreed_categories():
    assert [level.level for level in LEVELS] == list(range(6))
    assert len(CARD_CATEGORIES) == 14
    assert len(UNSAFE_CATEGORY_NAMES) == 18
    assert set(CATEGORY_NAMES) - set(CARD_CATEGORIES) == {
        "profanity_insult",
        "drugs_alcohol",
        "misinformation",
        "other",
        "none",
    }
    assert NEVER_TRAIN_CATEGORIES == ("child_exploitation", "privacy", "weapons")
    assert all(CARD_CATEGORY[name] == name for name in CARD_CATEGORIES)
    assert {CARD_CATEGORY[name] for name in CATEGORY_NAMES} <= {*CARD_CATEGORIES, None}
    assert len(rubric_sha256()) == 64


def test_highest_chunk_decides():
    levels = np.eye(6)[[0, 2, 1]]
    score = score_from_chunks(levels, np.eye(18)[[0, 3, 5]], np.array([[0.1, 0, 0], [0, 0.2, 0], [0, 0, 0.9]]))
    assert (score.score, score.n_chunks, score.category) == (2, 3, UNSAFE_CATEGORY_NAMES[3])
    assert score.never_train == (0.1, 0.2, 0.9)


@pytest.mark.parametrize("broken", range(3))
def test_probabilities_that_are_not_finite_are_no_safe_text(broken):
    arrays = [np.eye(6)[[4]], np.eye(18)[[3]], np.zeros((1, 3))]
    arrays[broken] = arrays[broken] * np.nan
    with pytest.raises(ModelError, match="are not finite: its weights are broken"):
        score_from_chunks(*arrays, Decision((0.3, 0.4, 0.4, 0.4, 0.4)))


def test_level_is_the_most_probable_not_the_mean():
    rows = [(0.30, 0.10, 0.15, 0.25, 0.15, 0.05), (0.4, 0.0, 0.0, 0.4, 0.2, 0.0)]
    assert MostProbable().levels(np.array(rows)).tolist() == [0, 3]


@given(st.lists(st.floats(0.001, 1), min_size=6, max_size=6), st.lists(st.floats(0.05, 1), min_size=5, max_size=5))
def test_a_lower_threshold_never_lowers_a_level(weights, thresholds):
    probabilities = np.array([weights]) / np.sum(weights)
    level = Decision(tuple(thresholds)).levels(probabilities)[0]
    lower = Decision(tuple(value * 0.5 for value in thresholds)).levels(probabilities)[0]
    assert lower >= level
    assert level == max([k for k in range(1, 6) if probabilities[0, k:].sum() >= thresholds[k - 1]], default=0)


def test_thresholds_of_one_half_give_the_median():
    assert Decision((0.5,) * 5).levels(np.array([[0.3, 0.1, 0.15, 0.25, 0.15, 0.05]])).tolist() == [2]


@pytest.mark.parametrize("thresholds", [(0.5,) * 4, (0.5, 0.5, 0.5, 0.5, 0.0), (0.5, 0.5, 0.5, 0.5, 1.1)])
def test_thresholds_out_of_range_are_refused(thresholds):
    with pytest.raises(ModelError, match="expected 5 numbers in"):
        Decision(thresholds)


@pytest.mark.parametrize(
    "broken", [{"score": 6}, {"category": "none"}, {"probabilities": (1.0,)}, {"never_train": (0.5,)}, {"score": 0}]
)
def test_a_score_that_breaks_the_rules_cannot_be_made(broken):
    with pytest.raises(ValueError):
        dataclasses.replace(certain(3), **broken)


def test_ensemble_is_the_maximum_whatever_the_order():
    members = {"a": certain(1), "b": certain(2, "privacy", 0.2), "c": certain(2, "weapons", 0.9), "d": None}
    answers = {combine(dict(order)) for order in itertools.permutations(members.items())}
    assert len(answers) == 1
    best = answers.pop()
    assert (best.score, best.category) == (2, "weapons")


def test_ensemble_without_anyone_asked_is_an_error_not_a_zero():
    with pytest.raises(ValueError, match="no classifier was asked"):
        combine({"fasttext": None})


@given(st.integers(0, 5000), st.integers(1, 300))
def test_spans_cover_everything_once_in_equal_sizes(length, window):
    spans = balanced_spans(length, window, most=10_000)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    sizes = [end - start for start, end in spans]
    assert max(sizes) <= window and max(sizes) - min(sizes) <= 1


def test_too_many_spans_are_thinned_evenly_with_both_ends():
    spans = balanced_spans(10_000, 10, most=5)
    assert len(spans) == 5 and spans[0][0] == 0 and spans[-1][1] == 10_000


@given(st.text(max_size=3000), st.integers(64, 500))
def test_bounded_text_keeps_short_texts_and_both_ends_of_long_ones(text, most):
    bounded = bounded_text(text, most)
    assert len(bounded) <= most
    assert bounded == text if len(text) <= most else bounded[0] == text[0] and bounded[-1] == text[-1]


def test_encodable_takes_out_what_tokenizers_refuse():
    assert encodable("a\0b\ud800c") == "a b?c"


def test_identifiers_are_masked_and_the_rest_is_not():
    masked = mask_identifiers(
        "Write to jo.x+y@example.co.uk or @jo_x, see https://example.org/a?b=1 or example.com, call +1 (555) 010-0199. "
        "In 2020 the 12 members paid 3.50, u/someone said."
    )
    for word in ("example", "jo", "555", "someone"):
        assert word not in masked
    for kept in ("In 2020 the 12 members paid 3.50", "Write to"):
        assert kept in masked


def test_the_page_on_the_rubric_is_made_from_the_rubric():
    page = Path(__file__).parents[2] / "docs" / "rubric.md"
    assert page.read_text(encoding="utf-8") == rubric_page(), "python -m classifiers.rubric_page > docs/rubric.md"
