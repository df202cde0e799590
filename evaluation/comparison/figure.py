"""The figure of a comparison: bars of each result by suite, as the paper's."""

import io
from collections.abc import Sequence

from evaluation.comparison.rows import Row

COLOURS = ("#4c6a92", "#d08c3e", "#5b8f6b", "#a3506b", "#7a6aa8", "#8a8a8a")


def draw_bars(rows: Sequence[Row], names: Sequence[str]) -> bytes:
    """PNG: a panel for each measure that is a share and each judge; 95 % intervals as whiskers; lower is better but for
    refusals of harmful prompts. Results beyond the sixth repeat colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shares = [row for row in rows if row.measure != "mean_score"] or list(rows)
    panels = list(dict.fromkeys((row.measure, row.judge) for row in shares))
    widest = max(sum((r.measure, r.judge) == panel for r in shares) for panel in panels)
    figure = Figure(figsize=(max(6.0, 1.6 + 0.5 * widest * (len(names) + 1)), 3.1 * len(panels)), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    width = 0.8 / len(names)
    for axis, (measure, judge) in zip(axes, panels, strict=True):
        inside = [row for row in shares if (row.measure, row.judge) == (measure, judge)]
        factor = 1.0 if measure == "mean_score" else 100.0
        for number, name in enumerate(names):
            points = [(i, row.cells[number]) for i, row in enumerate(inside)]
            found = [(i, cell) for i, cell in points if cell is not None and cell["value"] is not None]
            values = [factor * cell["value"] for _, cell in found]
            below = [factor * (cell["value"] - cell["low"]) for _, cell in found]
            above = [factor * (cell["high"] - cell["value"]) for _, cell in found]
            places = [i + (number - (len(names) - 1) / 2) * width for i, _ in found]
            colour = COLOURS[number % len(COLOURS)]
            axis.bar(places, values, width * 0.92, label=name, color=colour)
            axis.errorbar(places, values, yerr=[below, above], fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
            for place, value, top in zip(places, values, above, strict=True):
                axis.annotate(
                    f"{value:.1f}", (place, value + top), (0, 2), textcoords="offset points", ha="center", fontsize=7
                )
        labels = [row.suite + ("" if row.attack == "none" else f"\n{row.attack}") for row in inside]
        axis.set_xticks(range(len(inside)), labels, fontsize=8)
        axis.set_title(
            f"{measure.replace('_', ' ')}{'' if factor == 1 else ', %'} (judge: {judge})", fontsize=10, loc="left"
        )
        if factor == 100.0:
            axis.set_ylim(0, 112)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=min(3, len(names)), frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.35 / figure.get_figheight() * (1 + (len(names) - 1) // 3), 1, 1))
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
