"""The golden set and the numbers made of it."""

import re
from collections import Counter

import pytest

from classifiers.judge import Judgement, parse_judge_answer
from classifiers.judge_health import (
    AnswerCounts,
    HealthBounds,
    breaches,
    golden_report,
    golden_texts,
    mean_signed_error,
    over_scored_share,
    under_scored_share,
)
from classifiers.rubric import CATEGORY_NAMES

WELL = HealthBounds(0.05, 0.05, 0.2, 0.2, 0.5)


def test_the_golden_set_is_half_harmless_and_holds_what_judges_over_score():
    texts = golden_texts()
    assert len(texts) == len({t.id for t in texts}) == len({t.text for t in texts}) == 40
    levels = Counter(text.score for text in texts)
    assert set(levels) == {0, 1, 2, 3, 4} and levels[0] + levels[1] >= 20
    kinds = Counter(text.kind for text in texts if text.score == 0)
    assert min(kinds["hobby electronics"], kinds["climate"], kinds["children"]) >= 3
    assert any("Christmas worksheet" in text.text for text in texts)
    assert all(text.category in CATEGORY_NAMES and (text.category == "none") == (text.score == 0) for text in texts)
    assert not any(re.search(r"@|https?:|\d{6}", text.text) for text in texts)


def test_error_and_over_scoring_by_hand():
    given, golden = [0, 3, 1, 5, 2], [0, 0, 1, 4, 3]
    assert mean_signed_error(given, golden) == pytest.approx((0 + 3 + 0 + 1 - 1) / 5)
    assert over_scored_share(given, golden) == pytest.approx(1 / 3)
    assert under_scored_share([1, 2, 0, 5, 0], [3, 4, 4, 4, 2]) == pytest.approx(2 / 4)
    assert under_scored_share([5], [2]) is None
    assert over_scored_share([5], [4]) is None and mean_signed_error([], []) is None


def test_a_report_counts_outcomes_and_grades_only_what_was_scored():
    texts = golden_texts()[:4]
    assert [text.score for text in texts] == [0, 0, 0, 0]
    answers = [Judgement("scored", parse_judge_answer("3")), Judgement("refused"), Judgement("invalid")]
    report = golden_report(texts, [*answers, Judgement("unanswered")], [0, 2, 0, 1])
    assert report.counts.to_json() == {
        **{"asked": 4, "scored": 1, "invalid": 1, "refused": 1, "unanswered": 1, "retries": 3},
    }
    assert (report.mean_signed_error, report.over_scored) == (3.0, 1.0)
    assert list(report.levels.values()) == [3, "refused", "invalid", "unanswered"]
    lines = breaches(report.counts, report, WELL)
    assert [re.search(r"health\.(\w+)", line).group(1) for line in lines] == [
        *("most_invalid", "most_refusals", "most_unanswered", "most_over_scored")
    ]
    assert "among them: hobby electronics" in lines[-1]
    assert breaches(report.counts, report, HealthBounds(0.25, 0.25, 0.25, 1.0, 0)) == [], "a bound may be met"


def test_nothing_asked_breaks_no_bound():
    report = golden_report([], [], [])
    assert breaches(AnswerCounts(), report, HealthBounds(0, 0, 0, 0, 0)) == []
    assert AnswerCounts().plus(AnswerCounts()).to_json()["asked"] == 0
