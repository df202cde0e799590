"""The figure of a comparison: bars of each result by suite, as the paper's."""

import io
from collections.abc import Sequence
from typing import Any

from evaluation.comparison.rows import Row
from evaluation.comparison.table import measure_title

COLOURS = ("#4c6a92", "#d08c3e", "#5b8f6b", "#a3506b", "#7a6aa8", "#8a8a8a")


def draw_bars(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    """PNG: a panel for attack success and over-refusal of each judge; 95 % intervals as whiskers; lower is better.
    Without any such measure: a panel for whatever there is. Results beyond the sixth repeat colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Refusals of harmful prompts are, for most judges, what attack success leaves over: they stand in the table.
    drawn = [row for row in rows if row.measure in ("attack_success_rate", "over_refusal_rate")] or list(rows)
    panels: dict[tuple[str, str], list[Row]] = {}
    for row in drawn:
        panels.setdefault((row.measure, row.judge), []).append(row)
    widest = max(map(len, panels.values()))
    figure = Figure(figsize=(max(6.0, 1.6 + 0.5 * widest * (len(names) + 1)), 3.1 * len(panels)), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, ((measure, judge), inside) in zip(axes, panels.items(), strict=True):
        _draw_panel(axis, inside, names, 1.0 if measure == "mean_score" else 100.0)
        unit = "" if measure == "mean_score" else ", %"
        axis.set_title(f"{measure_title(measure)}{unit} (judge: {judge})", fontsize=10, loc="left")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=min(3, len(names)), frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.35 / figure.get_figheight() * (1 + (len(names) - 1) // 3), 1, 1))
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def legend_label(name: str) -> str:
    """A result's name as matplotlib shows it: a leading underscore would hide it, two dollar signs would make a formula of it."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _draw_panel(axis: Any, rows: Sequence[Row], names: Sequence[str], factor: float) -> None:
    """A group of bars a row, a bar a result; `factor` 100 draws shares as per cent."""
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        points = [(i, row.cells[number]) for i, row in enumerate(rows)]
        found = [(i, cell) for i, cell in points if cell is not None and cell["value"] is not None]
        values = [factor * cell["value"] for _, cell in found]
        # A percentile interval need not hold the value; a whisker cannot be negative.
        below = [factor * max(0.0, cell["value"] - _bound(cell, "low")) for _, cell in found]
        above = [factor * max(0.0, _bound(cell, "high") - cell["value"]) for _, cell in found]
        places = [i + (number - (len(names) - 1) / 2) * width for i, _ in found]
        axis.bar(places, values, width * 0.92, label=legend_label(name), color=COLOURS[number % len(COLOURS)])
        axis.errorbar(places, values, yerr=[below, above], fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        for place, value, top in zip(places, values, above, strict=True):
            text = f"{value:.1f}" if factor == 100.0 else f"{value:.2f}"
            axis.annotate(text, (place, value + top), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    labels = [row.suite + ("" if row.attack == "none" else f"\n{row.attack}") for row in rows]
    axis.set_xticks(range(len(rows)), labels, fontsize=8)
    if factor == 100.0:
        axis.set_ylim(0, 112)
    axis.spines[["top", "right"]].set_visible(False)


def _bound(cell: dict[str, Any], end: str) -> float:
    """One end of the interval; the value itself where there is no interval."""
    return float(cell["value"] if cell[end] is None else cell[end])
