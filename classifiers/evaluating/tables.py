"""An evaluation as Markdown tables that read well in a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from classifiers.evaluating.members import SOURCE_ALONE
from classifiers.evaluating.report import BOUNDARIES

_TABLE_4 = ("macro_f1", "recall_1", "recall_3", "precision_1", "precision_3")
_TITLES = {
    "macro_f1": "macro F1",
    "recall_1": "Recall@1",
    "recall_3": "Recall@3",
    "precision_1": "Precision@1",
    "precision_3": "Precision@3",
}


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns are padded to one width each: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for row in (head, rule, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def interval_cell(interval: Mapping[str, float] | None, signed: bool = False) -> str:
    """The value with its interval, or a dash."""
    if interval is None:
        return "-"
    sign = "+" if signed else ""
    return f"{interval['value']:{sign}.3f} ({interval['low']:{sign}.3f}..{interval['high']:{sign}.3f})"


def evaluation_tables(report: Mapping[str, Any]) -> str:
    """All tables of a report, with a heading each."""
    main, levels = report["main"], report["prevalence"]
    sections = [
        (f"All {report['rows']} texts (in brackets: 95 % interval)", _members_table(report["all"])),
        ("Web pages and web sentences alone", _members_table(report["web"]) if report["web"] else ""),
        (
            f"Precision where {levels['1']:.0%} of the texts are at 1 or above, {levels['3']:.0%} at 3 or above",
            _corrected_table(report),
        ),
        (f"False positives: texts below 3 that are given 3 or more, of {_sober_texts(report)}", _wrong_table(report)),
        (f"{main}, by source", _source_table(report)),
        (f"{main}, by category", _category_table(report)),
        (f"{main} minus each other one, on the same texts", _difference_table(report["differences"])),
        ("Spread over the weights: mean (lowest..highest)", _spread_table(report.get("spread", {}))),
    ]
    text = "\n\n".join(f"## {title}\n\n{table}" for title, table in sections if table)
    skipped = [f"Not asked: {name}: {reason}" for name, reason in report.get("skipped", {}).items()]
    lines = [*report.get("notes", []), *skipped]
    return "\n".join([text, *([""] if lines else []), *lines])


def shares_table(shares: Mapping[str, Mapping[str, Any]]) -> str:
    """Of texts without labels: the share that each member scores at 1 and at 3 or above, and drops for good."""
    rows = [
        [name, *(f"{entry[key]:.3f}" for key in ("at_1", "at_3")), f"{entry['never_train']:.4f}", str(entry["texts"])]
        for name, entry in shares.items()
    ]
    return markdown_table(["classifier", "scored >= 1", "scored >= 3", "never_train", "texts"], rows)


def _members_table(members: Mapping[str, Any]) -> str:
    rows = [[name, *(interval_cell(entry[key]) for key in _TABLE_4)] for name, entry in members.items()]
    return markdown_table(["classifier", *(_TITLES[key] for key in _TABLE_4)], rows)


def _corrected_table(report: Mapping[str, Any]) -> str:
    parts = [part for part in ("all", "web") if report[part]]
    head = ["classifier", *(f"Precision@{level}, {part}" for part in parts for level in BOUNDARIES)]
    rows = [
        [
            name,
            *(
                interval_cell(report[part][name][f"corrected_precision_{level}"])
                for part in parts
                for level in BOUNDARIES
            ),
        ]
        for name in report["all"]
    ]
    return markdown_table(head, rows)


def _sober_texts(report: Mapping[str, Any]) -> str:
    places = report["false_positives"][report["main"]]
    return ", ".join(f"{entry['texts']} ({place})" for place, entry in places.items())


def _wrong_table(report: Mapping[str, Any]) -> str:
    found = report["false_positives"]
    places = list(found[report["main"]])
    rows = []
    for name, entries in found.items():
        cells = [str(entries[place]["wrong"]) for place in places[:-1]]
        rows.append([name, *cells, str(entries[places[-1]]["wrong"]), interval_cell(entries[places[-1]]["share"])])
    return markdown_table(["classifier", *places, "share of the last"], rows)


def _source_table(report: Mapping[str, Any]) -> str:
    sources, alone = report["by_source"][report["main"]], report["by_source"].get(SOURCE_ALONE, {})
    head = ["source", "texts", ">= 1", ">= 3", *(_TITLES[key] for key in _TABLE_4[1:])]
    head += [f"{SOURCE_ALONE}: R@1", "R@3", "P@1", "P@3"] if alone else []
    rows = []
    for source, entry in sources.items():
        cells = [str(entry[key]) for key in ("texts", "unsafe_1", "unsafe_3")]
        cells += [interval_cell(entry[key]) for key in _TABLE_4[1:]]
        cells += [_value(alone[source][key]) for key in _TABLE_4[1:]] if alone else []
        rows.append([source, *cells])
    return markdown_table(head, rows)


def _category_table(report: Mapping[str, Any]) -> str:
    categories = report["by_category"][report["main"]]
    alone = report["by_category"].get(SOURCE_ALONE, {})
    if not categories:
        return ""
    head = ["category (*: never_train)", ">= 1", ">= 3", "Recall@1", "Recall@3", "named right", "dropped for good"]
    head += [f"{SOURCE_ALONE}: R@1", "R@3"] if alone else []
    rows = []
    for name, entry in categories.items():
        cells = [str(entry[f"unsafe_{level}"]) for level in BOUNDARIES]
        cells += [interval_cell(entry[f"recall_{level}"]) for level in BOUNDARIES]
        cells += [_value(entry.get("named")), _value(entry.get("never_train"))]
        cells += [_value(alone[name][f"recall_{level}"]) for level in BOUNDARIES] if alone else []
        rows.append([name + (" *" if entry["never_train_category"] else ""), *cells])
    return markdown_table(head, rows)


def _difference_table(differences: Mapping[str, Any]) -> str:
    if not differences:
        return ""
    rows = [[name, *(interval_cell(entry[key], True) for key in _TABLE_4)] for name, entry in differences.items()]
    return markdown_table(["other", *(_TITLES[key] for key in _TABLE_4)], rows)


def _spread_table(spread: Mapping[str, Any]) -> str:
    if not spread:
        return ""
    rows = []
    for name, entry in spread.items():
        columns = [[value for value in entry[key] if value is not None] for key in _TABLE_4]
        cells = [f"{sum(c) / len(c):.3f} ({min(c):.3f}..{max(c):.3f})" if c else "-" for c in columns]
        rows.append([name, *cells])
    return markdown_table(["classifier", *(_TITLES[key] for key in _TABLE_4)], rows)


def _value(interval: Mapping[str, float] | None) -> str:
    return "-" if interval is None else f"{interval['value']:.3f}"
