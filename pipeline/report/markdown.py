"""The card as Markdown: a data set card for the Hub. Every text that is not ours is escaped."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml

from pipeline.report.judge import judge_rows
from pipeline.report.shown_values import (
    KIND_TITLES,
    apart,
    by_attempt_sentence,
    card_notes,
    count,
    levels_text,
    percent,
    percent_interval,
    rate,
    rate_interval_text,
    reasons,
    short_count,
)

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~$])")
_SPDX_ID = re.compile(r"[A-Za-z0-9.+-]{1,40}")
_LANGUAGE_CODE = re.compile(r"[a-z]{2,3}")


def escape(text: object) -> str:
    """Text as it is in any Markdown place, a table cell too: no markup, HTML, link or mention, and on one line."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _SPECIAL.sub(r"\\\1", line)
    # Addresses and mentions become links without any markup, unless they are broken up.
    return line.replace(":", "&#58;").replace("@", "&#64;").replace("www.", "www&#46;")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; the cells are Markdown already. The first column is text, the others numbers."""
    lines = [f"| {' | '.join(header)} |", f"|---|{'--:|' * (len(header) - 1)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def render_markdown(card: dict[str, Any]) -> str:
    """The whole card, with the front matter that the Hub reads (licence, languages, tags)."""
    blocks = [
        front_matter(card),
        [f"# Data Safety Report Card: {escape(card['name'])}"],
        *([f"> **{escape(note)}**"] for note in card_notes(card)),
        _headline(card),
        ["![Scores and phrase rates](card.png)"],
        *(part for part in (_sources(card), _histogram(card), _phrases(card)) if part),
        *(part for part in (_synthetic(card), _judge(card), _tokens(card)) if part),
        *(part for part in (_ledger(card), _made(card)) if part),
        ["## Limits of these numbers", "", *(f"- {escape(limit)}" for limit in card["limits"])],
    ]
    if card["missing"]:
        blocks.append(["## Not in this card", "", f"These stages have not run: {escape(', '.join(card['missing']))}."])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def front_matter(card: dict[str, Any]) -> list[str]:
    """The YAML block of a data set card; only identifiers that the Hub knows get into it."""
    licences = sorted({source["licence"] for source in card["sources"]})
    one_licence = len(licences) == 1 and licences[0] != "unknown" and _SPDX_ID.fullmatch(licences[0])
    meta: dict[str, Any] = {
        "pretty_name": card["name"],
        "license": licences[0].lower() if one_licence else "other",
        "language": [row["language"] for row in card["languages"] if _LANGUAGE_CODE.fullmatch(row["language"])],
        "task_categories": ["text-generation"],
        "tags": ["safety", "safety-pretraining", "data-safety-report-card"],
    }
    if not meta["language"]:
        del meta["language"]
    return ["---", yaml.safe_dump(meta, sort_keys=False, allow_unicode=True).rstrip(), "---"]


def _headline(card: dict[str, Any]) -> list[str]:
    head = card["headline"]
    removed = head["removed"]
    rows = []
    if head["documents"] is not None:
        rows += [["Documents", count(head["documents"])], ["Tokens", f"{count(head['tokens'])}"]]
        rows += [
            ["Flagged unsafe (score 1 or more)", percent_interval(head["unsafe"])],
            ["Clearly unsafe (score 3 or more)", percent_interval(head["clearly_unsafe"])],
        ]
    contaminated = count(removed["contaminated"])
    if removed["contaminated_by_suite"]:
        contaminated += f" ({escape(reasons(removed['contaminated_by_suite']))})"
    never_train = count(removed["never_train"])
    if removed["never_train_by_reason"]:
        never_train += f" ({escape(reasons(removed['never_train_by_reason']))})"
    rows += [
        ["Taken out as duplicates", count(removed["duplicate"])],
        ["Taken out as never to be trained on", never_train],
        ["Taken out for overlap with evaluation suites", contaminated],
    ]
    if card["languages"]:
        shown = ", ".join(f"{escape(row['language'])} {percent(row['share'])}" for row in card["languages"])
        rows.append(["Languages", shown])
    return table(["", "value"], rows)


def _sources(card: dict[str, Any]) -> list[str]:
    if not card["sources"]:
        return []
    rows = [
        [
            escape(source["name"]),
            escape(source["licence"]),
            count(source["documents"]),
            short_count(source.get("tokens")),
            percent_interval(source.get("unsafe")),
        ]
        for source in card["sources"]
    ]
    return ["## Sources", "", *table(["source", "licence", "documents", "tokens", "flagged unsafe"], rows)]


def _histogram(card: dict[str, Any]) -> list[str]:
    data = card["histogram"]
    if data is None or not data["all"]["scored"]:
        return []
    entries = {"**all**": data["all"], **{escape(name): entry for name, entry in data["by_source"].items()}}
    rows = [
        [name, count(entry["scored"]), *(percent_interval(level["share"]) for level in entry["levels"])]
        for name, entry in entries.items()
    ]
    header = ["source", "scored", *(f"score {level}" for level in range(6))]
    return ["## Score histogram", "", "Share of the scored originals (95 % interval).", "", *table(header, rows)]


def _phrases(card: dict[str, Any]) -> list[str]:
    data = card["phrase_rates"]
    if not data:
        return []
    lines = ["## Harmful phrases per million tokens", "", "Sum over a category's phrases, with its 95 % interval; "]
    lines[-1] += "the mean over phrases, which the figure shows, is in card.json."
    for kind, pair in data["comparisons"].items():
        rows = []
        for category, title in [*card["categories"].items(), ("all", "**All**")]:
            before, after = (_entry(pair[side], category) for side in ("original", "synthetic"))
            verdict = apart(before["sum"], after["sum"]) if before and after else "–"
            sums = [rate_interval_text(entry["sum"] if entry else None) for entry in (before, after)]
            rows.append([title, *sums, verdict])
        title = KIND_TITLES[kind].lower()
        lines += ["", f"### Originals with score {levels_text(pair['levels'])}, and {title}", ""]
        lines += table(["category", "originals", title, "intervals"], rows)
    if not data["comparisons"]:
        lines += ["", *table(["category", "originals"], _single_rows(card, "original"))]
    lines += ["", "### By score level, all categories", ""]
    kinds = list(data["by_level"])
    by_level = [
        [str(level), *(rate_interval_text(_level_sum(data["by_level"][kind], level)) for kind in kinds)]
        for level in range(6)
    ]
    lines += table(["score of the original", *(KIND_TITLES[kind].lower() for kind in kinds)], by_level)
    return lines + _top_phrases(card)


def _entry(part: dict[str, Any], category: str) -> dict[str, Any] | None:
    return part["all"] if category == "all" else part["categories"][category]


def _level_sum(levels: dict[str, Any], level: int) -> dict[str, float] | None:
    entry = levels.get(str(level))
    return entry["all"]["sum"] if entry and entry["all"] else None


def _single_rows(card: dict[str, Any], kind: str) -> list[list[str]]:
    part = card["phrase_rates"]["by_kind"].get(kind)
    if part is None:
        return []
    entries = {title: part["categories"][category] for category, title in card["categories"].items()}
    return [[title, rate_interval_text(entry["sum"] if entry else None)] for title, entry in entries.items()]


def _top_phrases(card: dict[str, Any]) -> list[str]:
    rows = [
        [
            escape(row["phrase"]),
            escape(card["categories"][row["category"]]),
            count(row["hits"]),
            rate(row["per_million"]),
        ]
        for row in card["phrase_rates"]["top_phrases"].get("original", [])
    ]
    if not rows:
        return []
    header = ["phrase", "category", "hits", "per million tokens"]
    return ["", "### Most frequent phrases in the originals", "", *table(header, rows)]


def _synthetic(card: dict[str, Any]) -> list[str]:
    if not card["synthetic"]:
        return []
    lines = ["## Synthetic texts and verification", ""]
    rows = [
        [
            KIND_TITLES.get(kind, escape(kind)),
            count(entry["tried"]),
            count(entry["accepted"]),
            percent_interval(entry["share"]),
            escape(reasons(entry["dropped"])),
        ]
        for kind, entry in card["synthetic"].items()
    ]
    lines += table(["kind", "documents", "accepted", "yield", "dropped by the first rule broken"], rows)
    for kind, entry in card["synthetic"].items():
        title = KIND_TITLES.get(kind, escape(kind))
        if entry["by_style"]:
            styles = [
                [
                    escape(style),
                    count(one["tried"]),
                    count(one["accepted"]),
                    percent_interval(one["share"]),
                    escape(reasons(one["rejected"])),
                ]
                for style, one in entry["by_style"].items()
            ]
            lines += ["", f"### {title}, by style", ""]
            header = ["style", "drafts", "accepted", "yield", "rejected by rule (one draft may break several)"]
            lines += table(header, styles)
        if sentence := by_attempt_sentence(entry):
            lines += ["", escape(sentence)]
    return lines


def _judge(card: dict[str, Any]) -> list[str]:
    if card["judge"] is None:
        return []
    rows = [[escape(cell) for cell in row] for row in judge_rows(card["judge"])]
    return ["## Health of the LLM judge", "", *table(["", "value", "at most"], rows)]


def _tokens(card: dict[str, Any]) -> list[str]:
    if not card["tokens"]:
        return []
    rows = [
        [
            escape(row["source"]),
            count(row["tokens"]),
            percent(row["share"]),
            "–" if row["weight"] is None else f"{row['weight']:g}",
        ]
        for row in card["tokens"]
    ]
    return ["## Tokens in the blend", "", *table(["part", "tokens", "share", "blend weight"], rows)]


def _ledger(card: dict[str, Any]) -> list[str]:
    rows = [
        [
            escape(row["stage"]),
            count(row["shards"]),
            count(row["in"]),
            count(row["kept"]),
            escape(reasons(row["dropped"])),
            escape(reasons(row["quarantined"])),
            "yes" if row["balanced"] else "**no**",
        ]
        for row in card["ledger"]
    ]
    header = ["stage", "shards", "in", "kept", "dropped", "quarantined", "balances"]
    return ["## Ledger", "", *table(header, rows)] if rows else []


def _made(card: dict[str, Any]) -> list[str]:
    made = card["made"]
    rows = (
        [["seed", escape(made["seed"])], ["recipe sha256", f"`{made['recipe_sha256']}`"]]
        if made["recipe_sha256"]
        else []
    )
    rows += [[escape(key), escape(value)] for key, value in made["settings"].items()]
    if card["phrase_lists_sha256"]:
        rows.append(["phrase lists sha256", f"`{card['phrase_lists_sha256']}`"])
    return ["## How it was made", "", *table(["setting", "value"], rows)] if rows else []
