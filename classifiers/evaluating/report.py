"""Everything that is measured, as one JSON value: tables and figures are drawn from it alone. Holds no text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classifiers.evaluating.members import Member
from classifiers.measures import (
    Interval,
    confusion_matrices,
    confusion_matrix,
    corrected_precision_interval,
    exact_interval,
    false_positive_counts,
    false_positive_rate_at,
    macro_f1,
    percentile_interval,
    precision_at,
    precision_at_prevalence,
    precision_counts,
    recall_at,
    recall_counts,
    resample_weights,
    share_interval,
)
from classifiers.rubric import NEVER_TRAIN_CATEGORIES, NO_CATEGORY
from classifiers.training.labels import LabelledText

BOUNDARIES = (1, 3)
WEB_SOURCES = ("web_page", "web_page_other_language", "web_sentence")
# Where a score of 3 or more on a harmless text is an error that nobody can excuse: whole pages and news.
SOBER_SOURCES = ("web_page", "web_page_other_language", "news")
MOST_CURVE_POINTS = 100


@dataclass(frozen=True)
class EvaluationSettings:
    """`resamples` of the bootstrap and their seed; `prevalence`: share of the web's texts at each boundary or above."""

    resamples: int
    seed: int
    prevalence: dict[int, float]


def evaluation_report(
    rows: Sequence[LabelledText], members: Sequence[Member], settings: EvaluationSettings
) -> dict[str, Any]:
    """The measures of all members on all rows, on web pages alone, by source and by category; intervals are of 95 %.

    Shares are {"value", "low", "high"}, null where there is nothing to measure. The last member is the main one: it is
    compared with each other one, resample by resample.
    """
    weights = resample_weights([row.id for row in rows], settings.resamples, settings.seed)
    web = [index for index, row in enumerate(rows) if row.source in WEB_SOURCES]
    main = members[-1]
    return {
        "rows": len(rows),
        "bootstrap": {"resamples": settings.resamples, "seed": settings.seed},
        "prevalence": {str(level): share for level, share in settings.prevalence.items()},
        "main": main.name,
        "all": {m.name: measured(rows, m, weights, settings.prevalence) for m in members},
        "web": {m.name: measured(*_part(rows, m, weights, web), settings.prevalence) for m in members} if web else {},
        "by_source": {m.name: by_source(rows, m, weights, settings.prevalence) for m in members},
        "by_category": {m.name: by_category(rows, m) for m in members},
        "false_positives": {m.name: false_positives(rows, m) for m in members},
        "differences": {m.name: differences(rows, main, m, weights) for m in members[:-1]},
        "confusion": {m.name: _confusion(rows, m).astype(int).tolist() for m in members},
        "curves": {m.name: {str(level): curve(rows, m, level) for level in BOUNDARIES} for m in members},
    }


def measured(
    rows: Sequence[LabelledText], member: Member, weights: np.ndarray, prevalence: dict[int, float]
) -> dict[str, Any]:
    """Macro F1, and at each boundary recall, precision, and precision at the stated prevalence."""
    true = [row.score for row in rows]
    point, resampled = _confusion(rows, member), confusion_matrices(true, member.levels, weights)
    found: dict[str, Any] = {
        "texts": len(rows),
        "macro_f1": as_json(percentile_interval(float(macro_f1(point)), macro_f1(resampled))),
    }
    for level in BOUNDARIES:
        recall = share_interval(*_whole(recall_counts(point, level)), recall_at(resampled, level))
        precision = share_interval(*_whole(precision_counts(point, level)), precision_at(resampled, level))
        wrong = false_positive_rate_at(resampled, level)
        false_positive_rate = share_interval(*_whole(false_positive_counts(point, level)), wrong)
        corrected = precision_at_prevalence(recall_at(resampled, level), wrong, prevalence[level])
        found |= {
            f"unsafe_{level}": int(sum(score >= level for score in true)),
            f"recall_{level}": as_json(recall),
            f"precision_{level}": as_json(precision),
            f"false_positive_rate_{level}": as_json(false_positive_rate),
            f"corrected_precision_{level}": as_json(
                corrected_precision_interval(recall, false_positive_rate, corrected, prevalence[level])
            ),
        }
    return found


def by_source(
    rows: Sequence[LabelledText], member: Member, weights: np.ndarray, prevalence: dict[int, float]
) -> dict[str, Any]:
    """`measured` for the rows of each source, in alphabetical order."""
    parts = {
        source: [i for i, row in enumerate(rows) if row.source == source]
        for source in sorted({row.source for row in rows})
    }
    return {source: measured(*_part(rows, member, weights, part), prevalence) for source, part in parts.items()}


def by_category(rows: Sequence[LabelledText], member: Member) -> dict[str, Any]:
    """For the unsafe texts of each category: recall at the boundaries, and of a member that names categories how many are
    given this one, how many would be dropped for good. Exact intervals: there are few texts of most categories."""
    found = {}
    for category in sorted({row.category for row in rows} - {NO_CATEGORY}):
        part = [index for index, row in enumerate(rows) if row.category == category]
        entry: dict[str, Any] = {"texts": len(part), "never_train_category": category in NEVER_TRAIN_CATEGORIES}
        for level in BOUNDARIES:
            unsafe = [index for index in part if rows[index].score >= level]
            hits = sum(member.levels[index] >= level for index in unsafe)
            entry |= {f"unsafe_{level}": len(unsafe), f"recall_{level}": as_json(exact_interval(hits, len(unsafe)))}
        if member.categories is not None:
            named = sum(member.categories[index] == category for index in part)
            entry["named"] = as_json(exact_interval(named, len(part)))
        if member.never_train is not None:
            dropped = sum(member.never_train[index] for index in part)
            entry["never_train"] = as_json(exact_interval(dropped, len(part)))
        found[category] = entry
    return found


def false_positives(rows: Sequence[LabelledText], member: Member) -> dict[str, Any]:
    """At each of the web's sources, news, and pages and news together: how many of the texts truly below 3 are given 3 or
    more, with exact intervals."""
    level = BOUNDARIES[-1]
    places: dict[str, tuple[str, ...]] = {source: (source,) for source in dict.fromkeys((*WEB_SOURCES, *SOBER_SOURCES))}
    places["web pages and news"] = SOBER_SOURCES
    found = {}
    for place, sources in places.items():
        part = [index for index, row in enumerate(rows) if row.source in sources and row.score < level]
        wrong = sum(member.levels[index] >= level for index in part)
        found[place] = {"wrong": wrong, "texts": len(part), "share": as_json(exact_interval(wrong, len(part)))}
    return found


def differences(
    rows: Sequence[LabelledText], main: Member, other: Member, weights: np.ndarray
) -> dict[str, dict[str, float] | None]:
    """Main member minus another one, on the same texts and the same resamples."""
    true = [row.score for row in rows]
    points = [_confusion(rows, member) for member in (main, other)]
    resampled = [confusion_matrices(true, member.levels, weights) for member in (main, other)]
    found = {
        "macro_f1": as_json(
            percentile_interval(
                float(macro_f1(points[0]) - macro_f1(points[1])), macro_f1(resampled[0]) - macro_f1(resampled[1])
            )
        )
    }
    for level in BOUNDARIES:
        for name, measure in (("recall", recall_at), ("precision", precision_at)):
            value = float(measure(points[0], level) - measure(points[1], level))
            spread = measure(resampled[0], level) - measure(resampled[1], level)
            found[f"{name}_{level}"] = as_json(percentile_interval(value, spread))
    return found


def curve(rows: Sequence[LabelledText], member: Member, level: int) -> list[dict[str, float]]:
    """Points of the precision-recall and of the cost-recall curve at a boundary, from the strictest threshold on
    P(level >= boundary) to the loosest; a member without probabilities has one point, its own decision.

    `flagged`, the cost: the share of all texts that are treated as unsafe (rewritten, refused, or sent on to a larger
    classifier). At most about a hundred points.
    """
    unsafe = np.array([row.score >= level for row in rows])
    if not unsafe.any():
        return []
    if member.tails is None:
        chosen = np.array(member.levels) >= level
        return [_curve_point(None, unsafe, chosen)] if chosen.any() else []
    thresholds = np.unique(member.tails[:, level - 1])[::-1]
    if len(thresholds) > MOST_CURVE_POINTS:
        thresholds = thresholds[np.linspace(0, len(thresholds) - 1, MOST_CURVE_POINTS).round().astype(int)]
    return [_curve_point(float(t), unsafe, member.tails[:, level - 1] >= t) for t in thresholds]


def _curve_point(threshold: float | None, unsafe: np.ndarray, chosen: np.ndarray) -> dict[str, Any]:
    hits = int((unsafe & chosen).sum())
    return {
        "threshold": threshold,
        "recall": hits / int(unsafe.sum()),
        "precision": hits / int(chosen.sum()),
        "flagged": float(chosen.mean()),
    }


def as_json(interval: Interval) -> dict[str, float] | None:
    """The interval for JSON, which has no nan: null where nothing could be measured."""
    if math.isnan(interval.value):
        return None
    return {"value": round(interval.value, 6), "low": round(interval.low, 6), "high": round(interval.high, 6)}


def _confusion(rows: Sequence[LabelledText], member: Member) -> np.ndarray:
    return confusion_matrix([row.score for row in rows], member.levels)


def _whole(counts: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
    return int(counts[0]), int(counts[1])


def _part(
    rows: Sequence[LabelledText], member: Member, weights: np.ndarray, chosen: list[int]
) -> tuple[list[LabelledText], Member, np.ndarray]:
    return [rows[index] for index in chosen], member.only(chosen), weights[:, chosen]
