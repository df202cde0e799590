"""Two cards beside each other, as text for a terminal: what rose, what fell, and whether the intervals are apart."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifiers.errors import DataError
from pipeline.report.phrase_lists import CATEGORY_TITLES
from pipeline.report.shown_values import KIND_TITLES, NOTHING, apart, count, percent_interval, rate_interval_text


def read_card(path: Path) -> dict[str, Any]:
    """The data of a card: `path` is a run folder or a card.json. Raises DataError where there is none."""
    file = path / "report" / "card.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such card; build it first with `safetrove card {path}`")
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file}: not a card ({error}); build it again with `safetrove card`") from error
    if not isinstance(card, dict) or card.get("format") != "safetrove-card":
        raise DataError(f"{file}: not a Data Safety Report Card")
    return card


def diff_cards(card_a: dict[str, Any], card_b: dict[str, Any]) -> str:
    """A table of both cards' numbers with the direction of each change from `card_a` to `card_b`.

    "lower" and "higher" are said only where the 95 % intervals do not overlap; "not apart" else. Rates per million
    tokens are sums over a category's phrases.
    """
    rows: list[tuple[str, str, str, str]] = [("", "A: " + card_a["name"], "B: " + card_b["name"], "B against A")]
    for title, key in (("documents", "documents"), ("tokens", "tokens")):
        a, b = card_a["headline"][key], card_b["headline"][key]
        rows.append((title, count(a), count(b), _of_counts(a, b)))
    for title, key in (("flagged unsafe (score >= 1)", "unsafe"), ("score >= 3", "clearly_unsafe")):
        a, b = card_a["headline"].get(key), card_b["headline"].get(key)
        rows.append((title, percent_interval(a), percent_interval(b), _of_intervals(a, b)))
    rows += _histogram_rows(card_a, card_b)
    rows += _yield_rows(card_a, card_b)
    for kind, title in KIND_TITLES.items():
        rows += _phrase_rows(card_a, card_b, kind, title)
    notes = []
    if card_a["phrase_lists_sha256"] != card_b["phrase_lists_sha256"]:
        notes.append("The phrase lists differ: phrase rates of the two cards cannot be compared.")
    for label, card in (("A", card_a), ("B", card_b)):
        notes += [f"{label}: {warning}" for warning in card["warnings"]]
    return "\n".join([*_aligned(rows), *(["", *notes] if notes else [])]) + "\n"


def _of_counts(a: int | None, b: int | None) -> str:
    if a is None or b is None:
        return NOTHING
    return "same" if a == b else ("higher" if b > a else "lower")


def _of_intervals(a: Mapping[str, float] | None, b: Mapping[str, float] | None) -> str:
    return NOTHING if a is None or b is None else apart(a, b)


def _histogram_rows(card_a: dict[str, Any], card_b: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for level in range(6):
        a, b = (
            card["histogram"]["all"]["levels"][level]["share"] if card["histogram"] else None
            for card in (card_a, card_b)
        )
        rows.append((f"score {level}", percent_interval(a), percent_interval(b), _of_intervals(a, b)))
    return rows


def _yield_rows(card_a: dict[str, Any], card_b: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for kind in sorted(card_a["synthetic"].keys() | card_b["synthetic"].keys()):
        a, b = (card["synthetic"].get(kind, {}).get("share") for card in (card_a, card_b))
        title = f"yield, {KIND_TITLES.get(kind, kind).lower()}"
        rows.append((title, percent_interval(a), percent_interval(b), _of_intervals(a, b)))
    return rows


def _phrase_rows(
    card_a: dict[str, Any], card_b: dict[str, Any], kind: str, title: str
) -> list[tuple[str, str, str, str]]:
    parts = [(card["phrase_rates"] or {"by_kind": {}})["by_kind"].get(kind) for card in (card_a, card_b)]
    if not any(parts):
        return []
    rows = [("", "", "", ""), (f"{title}, phrases per million tokens", "", "", "")]
    for category, name in {"all": "all categories", **CATEGORY_TITLES}.items():
        entries = [
            (part["all"] if category == "all" else part["categories"][category]) if part else None for part in parts
        ]
        a, b = (entry["sum"] if entry else None for entry in entries)
        rows.append((f"  {name}", rate_interval_text(a), rate_interval_text(b), _of_intervals(a, b)))
    return rows


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    """Columns of equal width; text from the cards is kept on its line and free of control characters."""
    clean = [["".join(c if c.isprintable() else " " for c in cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in clean) for column in range(3)]
    return [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {verdict}".rstrip() for a, b, c, verdict in clean]
