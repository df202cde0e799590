"""The ladder's figure: attack success by rung in the three columns, the paper's as marks."""

import io
from typing import Any, Final

from evaluation.ladder.cells import judges_of
from evaluation.ladder.rungs import COLUMN_TITLES, COLUMNS, RUNG_OF, paper_rates
from evaluation.ladder.table import Ladder

# Told apart by hue and by lightness.
_COLOURS: Final = {"base": "#b9c4d0", "instruction": "#6d8fb3", "benign": "#1f4e79"}
_WIDTH: Final = 0.27


def draw_ladder(ladder: Ladder) -> bytes:
    """PNG: a panel for each judge (and attack); bars with 95 % intervals over prompts, a dot for each seed, a diamond for
    the paper's number. Raises ValueError where nothing is measured yet."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = judges_of(ladder.results())
    if not panels:
        raise ValueError("no rung is evaluated yet: there is nothing to draw")
    figure = Figure(figsize=(2.2 + 1.35 * len(ladder.rungs), 3.2 * len(panels)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, (judge, attack) in zip(axes, panels, strict=True):
        _draw_panel(axis, ladder, judge, attack)
    marks = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))  # of a label once
    figure.legend(marks.values(), marks.keys(), frameon=False, fontsize=8, loc="outside upper right", ncols=len(marks))
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _draw_panel(axis: Any, ladder: Ladder, judge: str, attack: str) -> None:
    for number, column in enumerate(COLUMNS):
        found = [(i, ladder.cell(r, column, judge, attack, "attack_success_rate")) for i, r in enumerate(ladder.rungs)]
        cells = [(i + (number - 1) * _WIDTH, cell) for i, cell in found if cell is not None]
        places = [place for place, _ in cells]
        values = [100 * cell.value for _, cell in cells]
        # A percentile interval need not hold the value; a whisker cannot be negative.
        below = [100 * max(0.0, cell.value - cell.low) for _, cell in cells]
        above = [100 * max(0.0, cell.high - cell.value) for _, cell in cells]
        axis.bar(places, values, 0.92 * _WIDTH, color=_COLOURS[column], label=COLUMN_TITLES[column])
        axis.errorbar(places, values, yerr=[below, above], fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
        seeds = [(place, 100 * rate.value) for place, cell in cells for rate in cell.seeds.values()]
        if seeds:
            axis.plot(*zip(*seeds, strict=True), "o", color="#d08c3e", markersize=3, label="each seed")
    paper = [
        (i + (COLUMNS.index(column) - 1) * _WIDTH, value)
        for i, rung in enumerate(ladder.rungs)
        for column, value in paper_rates().get(rung, {}).items()
    ]
    if paper:
        axis.plot(*zip(*paper, strict=True), "D", color="#a3506b", markersize=4, fillstyle="none", label="paper (1.7B)")
    axis.set_xticks(range(len(ladder.rungs)), [RUNG_OF[rung].title for rung in ladder.rungs], fontsize=8)
    axis.set_ylim(0, 105)
    axis.set_title(
        f"attack success, % (judge: {judge}{'' if attack == 'none' else ', ' + attack})", fontsize=10, loc="left"
    )
    axis.spines[["top", "right"]].set_visible(False)
