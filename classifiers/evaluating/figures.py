"""Figures of an evaluation (PNG), drawn from its report: confusion matrices, and what recall costs. Same report, same bytes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.rubric import LEVELS

_INK, _MUTED, _GRID = "#1f2430", "#667085", "#e4e7ec"
_COLOURS = ("#98a2b3", "#b7791f", "#6b4fbb", "#2f855a", "#2b6cb0", "#c53030", "#1f2430", "#0891b2", "#9d174d")
_MARKERS = "os^DvPXhp"
_MOST_COLUMNS = 4
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.parse_math": False,
}


def draw_confusions(report: Mapping[str, Any], path: Path) -> None:
    """One panel a member: counts of (true, given) levels; the shade is the share of the texts of that true level."""
    import matplotlib as mpl

    matrices = report["confusion"]
    lines = math.ceil(len(matrices) / _MOST_COLUMNS)
    columns = math.ceil(len(matrices) / lines)
    with mpl.rc_context(_STYLE):
        figure = _figure(3.5 * columns + 0.4, 3.55 * lines + 0.7)
        figure.suptitle(f"True and given levels, {report['rows']} texts", x=0.01, ha="left", fontsize=14, weight="bold")
        for place, (name, matrix) in enumerate(matrices.items()):
            axes = figure.add_subplot(lines, columns, place + 1)
            _draw_confusion(axes, np.array(matrix), name)
            if place % columns == 0:
                axes.set_ylabel("true level")
            if place + columns >= len(matrices):
                axes.set_xlabel("given level")
        _save(figure, path)


def draw_curves(report: Mapping[str, Any], path: Path) -> None:
    """For each boundary: precision against recall, and the share of the texts that is flagged against recall.

    Lines: all thresholds on a member's probabilities; marks: what it decides by itself.
    """
    import matplotlib as mpl

    with mpl.rc_context({**_STYLE, "axes.spines.top": False, "axes.spines.right": False}):
        figure = _figure(12.5, 9.5)
        for line, level in enumerate(("1", "3")):
            left, right = (figure.add_subplot(2, 2, 2 * line + side) for side in (1, 2))
            for number, name in enumerate(report["curves"]):
                _draw_curve(left, right, report, name, level, number)
            unsafe = report["all"][report["main"]][f"unsafe_{level}"] / report["rows"]
            right.axvline(unsafe, color=_MUTED, lw=1, ls=":", zorder=1)
            right.text(unsafe + 0.01, 0.02, "share truly unsafe", color=_MUTED, fontsize=9)
            _finish(left, f"Score >= {level}: precision and recall", "recall", "precision")
            _finish(right, f"Score >= {level}: what recall costs", "share of the texts that is flagged", "recall")
            if line == 0:
                left.legend(frameon=False, fontsize=9.5, loc="lower left")
        _save(figure, path)


def _draw_confusion(axes: Any, matrix: np.ndarray, name: str) -> None:
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for true in range(len(LEVELS)):
        for given in range(len(LEVELS)):
            colour = "white" if shares[true, given] > 0.55 else _INK if matrix[true, given] else _MUTED
            axes.text(given, true, str(matrix[true, given]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(LEVELS)))
    axes.set_yticks(range(len(LEVELS)))
    axes.tick_params(length=0)
    # what is left of the upright line or above the level one is below 3
    for draw in (axes.axhline, axes.axvline):
        draw(2.5, color=_MUTED, lw=0.8, ls=":")
    axes.set_title(name)


def _draw_curve(left: Any, right: Any, report: Mapping[str, Any], name: str, level: str, number: int) -> None:
    colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
    points = report["curves"][name][level]
    if len(points) > 1:
        recall = [point["recall"] for point in points]
        left.plot(recall, [point["precision"] for point in points], color=colour, lw=1.6, zorder=2)
        right.plot([point["flagged"] for point in points], recall, color=colour, lw=1.6, zorder=2)
    decided = report["all"][name]
    recall, precision = decided[f"recall_{level}"], decided[f"precision_{level}"]
    if recall is None or precision is None:
        return
    flagged = (
        recall["value"] * decided[f"unsafe_{level}"] / precision["value"] / report["rows"] if precision["value"] else 0
    )
    style = {"color": colour, "marker": marker, "ms": 8, "mec": "white", "mew": 0.8, "ls": "none", "zorder": 3}
    left.plot([recall["value"]], [precision["value"]], label=name, **style)
    right.plot([flagged], [recall["value"]], **style)


def _finish(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_title(title, pad=8)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.02)
    axes.grid(color=_GRID, lw=0.8, zorder=0)
    axes.set_axisbelow(True)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=(width, height), dpi=120, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    whole = path.with_name(path.name + ".partial")
    figure.savefig(whole, format="png", metadata={"Software": None})
    whole.replace(path)
