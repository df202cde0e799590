"""How the card's numbers are written out, the same in Markdown, HTML, figure and diff."""

from collections.abc import Mapping
from typing import Any

KIND_TITLES = {
    "original": "Originals",
    "tagged": "Tagged originals",
    "rephrased": "Rephrased",
    "refusal": "Refusal dialogues",
    "moral": "Moral education",
}

KIND_COLOURS = {
    "original": "#d55e00",
    "tagged": "#e69f00",
    "rephrased": "#0072b2",
    "refusal": "#009e73",
    "moral": "#aa4499",
}
"""Told apart with any colour vision (Okabe and Ito 2008; the last after Paul Tol)."""

NOTHING = "–"


def count(number: int | None) -> str:
    """A whole number with thin groups of three: 1,234,567."""
    return NOTHING if number is None else f"{number:,}"


def short_count(number: int | None) -> str:
    """A large number in three digits: 1.23M."""
    if number is None:
        return NOTHING
    for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**4, "k")):
        if number >= limit:
            return f"{number / (limit if unit != 'k' else 1000):.3g}{unit}"
    return f"{number:,}"


def percent(share: float | None) -> str:
    """A share in [0, 1] as per cent with three digits: 12.3 %, 0.0123 %."""
    if share is None:
        return NOTHING
    return f"{share * 100:.1f} %" if share >= 0.01 or share == 0 else f"{share * 100:.2g} %"


def percent_interval(interval: Mapping[str, float] | None) -> str:
    """A share with its interval: 12.3 % (11.9 to 12.7)."""
    if interval is None:
        return NOTHING
    ends = " to ".join(percent(interval[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{percent(interval['value'])} ({ends})"


def rate(value: float | None) -> str:
    """A rate per million in three digits, without an exponent."""
    if value is None:
        return NOTHING
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rate_interval_text(interval: Mapping[str, float] | None) -> str:
    """A rate with its interval: 1.20 (0.25 to 3.51)."""
    return (
        NOTHING
        if interval is None
        else f"{rate(interval['value'])} ({rate(interval['low'])} to {rate(interval['high'])})"
    )


def apart(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Where `after` lies against `before`: "lower" or "higher" where the intervals are apart, else "not apart"."""
    if after["high"] < before["low"]:
        return "lower"
    return "higher" if after["low"] > before["high"] else "not apart"


def reasons(counts: Mapping[str, int]) -> str:
    """Drop reasons, most frequent first: `too_unsafe 12, copied 3`."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count(n)}" for name, n in ranked) or NOTHING


def levels_text(levels: list[int]) -> str:
    """Score levels: `1 to 3` for a gapless run, else `1, 3`."""
    if len(levels) > 1 and levels == list(range(levels[0], levels[-1] + 1)):
        return f"{levels[0]} to {levels[-1]}"
    return ", ".join(map(str, levels))


def comparison_groups(phrase_rates: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Originals beside what was written from the same score levels: one group a set of levels, lowest levels first.

    Each group: `levels`, and `parts`, kind -> slice (originals first). Where nothing was written, one group of all
    originals with `levels` None. Never are texts of different levels put side by side: that would compare levels.
    """
    groups: dict[tuple[int, ...], dict[str, Any]] = {}
    for kind, pair in phrase_rates["comparisons"].items():
        parts = groups.setdefault(tuple(pair["levels"]), {"original": pair["original"]})
        parts[kind] = pair["synthetic"]
    result: list[dict[str, Any]] = [{"levels": list(levels), "parts": groups[levels]} for levels in sorted(groups)]
    if not result and "original" in phrase_rates["by_kind"]:
        result = [{"levels": None, "parts": {"original": phrase_rates["by_kind"]["original"]}}]
    for group in result:
        group["parts"] = {kind: part for kind, part in group["parts"].items() if part["tokens"]}
    return [group for group in result if group["parts"]]


def group_title(group: Mapping[str, Any]) -> str:
    """`Score 1 to 3: originals, rephrased`."""
    kinds = ", ".join(KIND_TITLES[kind].lower() for kind in group["parts"])
    return f"All {kinds}" if group["levels"] is None else f"Score {levels_text(group['levels'])}: {kinds}"


def yield_sentence(card: Mapping[str, Any]) -> str | None:
    """What to know about the writer when most of its texts failed; None when they did not."""
    if not card["weak_writer"]:
        return None
    tried = sum(entry["tried"] for entry in card["synthetic"].values())
    accepted = sum(entry["accepted"] for entry in card["synthetic"].values())
    return (
        f"Weak writer: {card['writer'] or 'the writer'} wrote about {count(tried)} documents and verification accepted "
        f"the texts of {count(accepted)} ({percent(accepted / tried)}). The others were dropped, which is verification "
        "at work; a corpus for training needs a stronger writer."
    )


def zero_yield_sentences(card: Mapping[str, Any]) -> list[str]:
    """For each kind of which nothing passed: that this is a result, and what the corpus is without it."""
    return [
        f"Yield zero: none of {count(entry['tried'])} documents has a text of the kind {KIND_TITLES.get(kind, kind).lower()} "
        "that passed verification. That is a valid result: the corpus holds no text of this kind, and nothing unverified "
        "was put in its place."
        for kind, entry in card["synthetic"].items()
        if entry["tried"] and not entry["accepted"]
    ]


def card_notes(card: Mapping[str, Any]) -> list[str]:
    """What stands above the numbers: the warnings, and what verification says about the writer."""
    return [*card["warnings"], *filter(None, [yield_sentence(card)]), *zero_yield_sentences(card)]


def by_attempt_sentence(entry: Mapping[str, Any]) -> str | None:
    """At which attempt the accepted texts of a kind were written; None where nobody asked again, or nothing passed."""
    if entry["drafts"] <= entry["tried"] or not entry["accepted"]:
        return None
    parts = ", ".join(f"attempt {number}: {count(n)}" for number, n in entry["by_attempt"].items() if n)
    return f"{count(entry['drafts'])} drafts for {count(entry['tried'])} documents; accepted by {parts}."
