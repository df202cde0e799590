"""A comparison as Markdown."""

from collections.abc import Sequence
from typing import Any

from evaluation.comparison.rows import Row
from evaluation.measures.paired_tests import PairedTest


def measure_title(measure: str) -> str:
    """A measure's name for people."""
    return measure.replace("over_refusal", "over-refusal").replace("_", " ")


def interval_text(cell: dict[str, Any] | None) -> str:
    """ "12.5 % [8.1, 18.7]" for shares, "0.42 [0.31, 0.53]" for scores."""
    if cell is None or cell["value"] is None:
        return "-"
    if cell["interval"] == "wilson":
        return f"{100 * cell['value']:.1f} % [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
    if cell["low"] is None:
        return f"{cell['value']:.3f} (no interval: all are equal)"
    return f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def difference_text(test: PairedTest | None, note: str, shares: bool) -> str:
    """ "-4.2 points [-7.5, -1.0], p = 0.012, n = 120"."""
    if test is None:
        return note
    if test.interval == "none":
        return f"{test.difference:+.3f} (no interval: all differences are equal), n = {test.n}"
    if not shares:
        return f"{test.difference:+.3f} [{test.low:+.3f}, {test.high:+.3f}], n = {test.n}"
    p_value = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    numbers = f"{100 * test.difference:+.1f} points [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"
    return f"{numbers}, {p_value}, n = {test.n}"


def markdown_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """One line a row: every result's value with its interval, invalid judgements, and its test against the first result."""
    lines = []
    for measure in dict.fromkeys(row.measure for row in rows):
        head = [
            "suite",
            "attack",
            "judge",
            names[0],
            *(part for name in names[1:] for part in (name, "against the first")),
        ]
        lines += [f"### {measure_title(measure)}", "", _line(head), _line(["---"] * len(head))]
        for row in (row for row in rows if row.measure == measure):
            cells = [row.suite, row.attack, row.judge]
            for index, cell in enumerate(row.cells):
                cells.append(interval_text(cell) + _invalid(cell))
                if index:
                    shares = cell is None or cell["interval"] == "wilson"
                    cells.append(difference_text(row.tests[index], row.notes[index], shares))
            lines.append(_line(cells))
        lines.append("")
    lines.append(
        "95 % intervals: Wilson for shares, bootstrap for scores and differences, but score intervals where all of them are "
        "equal; p: exact McNemar test on the same prompts, "
        "not corrected for the number of rows. Invalid judgements are in no share."
    )
    return "\n".join(lines) + "\n"


def _invalid(cell: dict[str, Any] | None) -> str:
    if cell is None or not cell["invalid"]:
        return ""
    return (
        f" ({cell['invalid']} of {cell['n']} invalid; at worst {100 * cell['worst']:.1f} %)"
        if (cell["interval"] == "wilson")
        else f" ({cell['invalid']} of {cell['n']} invalid)"
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
