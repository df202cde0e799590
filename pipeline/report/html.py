"""The card as one HTML page: no script, nothing loaded from elsewhere, readable on a phone, everything escaped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.report import shown_values
from pipeline.report.judge import judge_rows
from pipeline.report.shown_values import KIND_COLOURS, KIND_TITLES, comparison_groups, group_title

TEMPLATE = "card.html.j2"


def bar(interval: Mapping[str, float], scale: float) -> dict[str, float]:
    """A bar and its whisker in per cent of the drawing's width; `scale` is the value at full width."""
    factor = 100 / scale if scale > 0 else 0.0
    low, high = interval["low"] * factor, min(100.0, interval["high"] * factor)
    return {
        "width": round(interval["value"] * factor, 3),
        "left": round(low, 3),
        "span": round(max(0.0, high - low), 3),
    }


def bar_scale(groups: list[dict[str, Any]]) -> float:
    """The value at full width for a set of bars: the largest upper end, but at most 1.6 times the largest value.

    An interval of a tiny slice would otherwise press all bars together; its whisker is cut at the edge instead.
    """
    intervals = [row["rate"] for group in groups for row in group["bars"] if row["rate"]]
    value = max((interval["value"] for interval in intervals), default=0.0)
    high = max((interval["high"] for interval in intervals), default=0.0)
    return min(high, 1.6 * value) if value > 0 else high


def category_charts(card: dict[str, Any]) -> list[dict[str, Any]]:
    """One chart a set of score levels: a group of bars for each category, originals beside what was written from them."""
    return [
        {
            "title": group_title(group),
            "groups": [
                {
                    "title": title,
                    "bars": [_bar_row(kind, part["categories"][name]) for kind, part in group["parts"].items()],
                }
                for name, title in card["categories"].items()
            ],
        }
        for group in comparison_groups(card["phrase_rates"])
    ]


def level_groups(card: dict[str, Any]) -> list[dict[str, Any]]:
    """One group of bars a score level: all phrases together, of every kind that has documents there."""
    by_level = card["phrase_rates"]["by_level"]
    groups = []
    for level in map(str, range(6)):
        bars = [_bar_row(kind, levels[level]["all"]) for kind, levels in by_level.items() if level in levels]
        if bars:
            groups.append({"title": f"Score {level}", "bars": bars})
    return groups


def _bar_row(kind: str, entry: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "kind": kind,
        "title": KIND_TITLES[kind],
        "rate": entry["sum"] if entry else None,
        "hits": entry["hits"] if entry else 0,
    }


def render_html(card: dict[str, Any]) -> str:
    """The whole page. Numbers are those of card.json; the bars show the sum over phrases."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (
        "count",
        "short_count",
        "percent",
        "percent_interval",
        "rate",
        "rate_interval_text",
        "reasons",
        "by_attempt_sentence",
    )
    environment.filters |= {name: getattr(shown_values, name) for name in names}
    environment.globals |= {"bar": bar, "bar_scale": bar_scale}
    has_rates = bool(card["phrase_rates"] and card["phrase_rates"]["by_kind"])
    return environment.get_template(TEMPLATE).render(
        card=card,
        head=card["headline"],
        removed=card["headline"]["removed"],
        kind_titles=KIND_TITLES,
        kind_colours=KIND_COLOURS,
        category_charts=category_charts(card) if has_rates else [],
        levels=level_groups(card) if has_rates else [],
        judge=judge_rows(card["judge"]) if card["judge"] else [],
        notes=shown_values.card_notes(card),
    )
