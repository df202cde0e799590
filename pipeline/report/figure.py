"""The card's figure (PNG): score histogram, phrase rates by category, and by score level before and after."""

from pathlib import Path
from typing import Any

from pipeline.report.shown_values import KIND_COLOURS, KIND_TITLES, comparison_groups, levels_text, percent, short_count

_INK, _MUTED, _GRID = "#1f2430", "#667085", "#e4e7ec"
_LEVEL_COLOURS = ("#b7d7c2", "#ffe08a", "#fdbb63", "#f58b4c", "#d9533b", "#a11d33")
MAX_SOURCES_SHOWN = 6
MAX_GROUPS_SHOWN = 3


def draw_figure(card: dict[str, Any], path: Path) -> None:
    """Draws the card's panels into a PNG at `path`; a panel without data says what is missing. Same card, same bytes."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: Any = {
        "font.family": "DejaVu Sans",
        "font.size": 10.5,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _MUTED,
        "axes.titlesize": 12.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": _INK,
        "ytick.color": _INK,
        # A source's name may hold a dollar sign; it is no formula.
        "text.parse_math": False,
    }
    with mpl.rc_context(style):
        layout = ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12, wspace=0.04, hspace=0.05)
        figure = Figure(figsize=(13, 9.2), dpi=130, layout=layout, facecolor="white")
        FigureCanvasAgg(figure)
        figure.suptitle(_title(card), x=0.012, ha="left", fontsize=15, fontweight="bold")
        groups = comparison_groups(card["phrase_rates"])[:MAX_GROUPS_SHOWN] if card["phrase_rates"] else []
        columns = max(1, len(groups))
        grid = figure.add_gridspec(2, 1 + columns, width_ratios=(1.05, *[1.15 / columns] * columns))
        _draw_histogram(figure.add_subplot(grid[0, 0]), card)
        _draw_levels(figure.add_subplot(grid[1, 0]), card)
        for column, group in enumerate(groups):
            _draw_categories(figure.add_subplot(grid[:, 1 + column]), card, group, names=column == 0)
        if not groups:
            _say_missing(figure.add_subplot(grid[:, 1]), "Harmful phrases by category", "no phrase is counted yet")
        figure.savefig(path, format="png", metadata={"Software": None})


def _title(card: dict[str, Any]) -> str:
    title = f"Data Safety Report Card: {card['name']}"
    head = card["headline"]
    if head["documents"] is not None:
        title += f"   ({short_count(head['documents'])} documents, {short_count(head['tokens'])} tokens)"
    return title + ("   STALE" if card["stale"] else "")


def _say_missing(axes: Any, title: str, what: str) -> None:
    axes.set_title(title)
    axes.text(0.5, 0.5, what, ha="center", va="center", color=_MUTED, transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])


def _draw_histogram(axes: Any, card: dict[str, Any]) -> None:
    """Share of documents at each score: bars for the corpus, small marks for its largest sources."""
    title = "Safety scores of the originals"
    data = card["histogram"]
    if data is None or not data["all"]["scored"]:
        return _say_missing(axes, title, "no document is scored yet")
    shares = [level["share"] for level in data["all"]["levels"]]
    values = [share["value"] for share in shares]
    axes.bar(range(6), values, width=0.72, color=_LEVEL_COLOURS, zorder=2)
    axes.errorbar(range(6), values, yerr=_ends(shares), fmt="none", ecolor=_INK, elinewidth=1.2, capsize=3, zorder=3)
    scored = {name: entry for name, entry in data["by_source"].items() if entry["scored"]}
    largest = sorted(scored, key=lambda name: (-scored[name]["scored"], name))[:MAX_SOURCES_SHOWN]
    top = max(share["high"] for share in shares)
    if len(largest) > 1:
        for name, marker in zip(largest, "osD^vP", strict=False):
            marks = [level["share"]["value"] for level in scored[name]["levels"]]
            top = max(top, *marks)
            axes.plot(range(6), marks, marker, ms=5, mfc="white", mec=_INK, mew=1, label=_shorten(name), zorder=4)
        axes.legend(frameon=False, fontsize=9.5, loc="upper right", title="by source", title_fontsize=9.5)
    for level, share in enumerate(shares):
        marks = [scored[name]["levels"][level]["share"]["value"] for name in largest] if len(largest) > 1 else []
        axes.text(level, max(share["high"], *marks, 0) + 0.03 * top, percent(share["value"]), ha="center", va="bottom")
    axes.set_ylim(0, top * 1.15)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("score (0 safe, 5 highly unsafe)")
    axes.set_ylabel("share of documents")
    _finish(axes, title, "y")


def _draw_levels(axes: Any, card: dict[str, Any]) -> None:
    """All phrases together, by score level: originals beside what was written from them."""
    title = "Harmful phrases by score level"
    levels = card["phrase_rates"]["by_level"] if card["phrase_rates"] else {}
    kinds = [kind for kind in KIND_TITLES if levels.get(kind) and kind != "tagged"]
    if not kinds:
        return _say_missing(axes, title, "no phrase is counted yet")
    width = 0.8 / max(sum(str(level) in levels[kind] for kind in kinds) for level in range(6))
    largest = 0.0
    for kind in kinds:
        points = [(int(level), entry["all"]["mean"]) for level, entry in levels[kind].items() if entry["all"]]
        places = [_place(kind, [k for k in kinds if str(level) in levels[k]]) * width + level for level, _ in points]
        rates = [rate for _, rate in points]
        values = [rate["value"] for rate in rates]
        largest = max([largest, *values])
        axes.bar(places, values, width * 0.92, color=KIND_COLOURS[kind], label=KIND_TITLES[kind])
        axes.errorbar(places, values, yerr=_ends(rates), fmt="none", ecolor=_INK, elinewidth=1, capsize=2)
    axes.set_xticks(range(6))
    # the interval of a tiny slice would press all bars flat: it runs out of the panel instead
    axes.set_ylim(0, min(axes.get_ylim()[1], 3 * largest) if largest else None)
    axes.set_xlabel("score of the original")
    axes.set_ylabel("hits per million tokens,\nmean over phrases")
    axes.legend(frameon=False, fontsize=9.5, loc="upper left")
    _finish(axes, title, "y")


def _place(kind: str, kinds: list[str]) -> float:
    """Offset of a kind's bar from its level, in bar widths, so that the bars of a level stand centred on it."""
    return kinds.index(kind) - (len(kinds) - 1) / 2


def _draw_categories(axes: Any, card: dict[str, Any], group: dict[str, Any], names: bool) -> None:
    """One row a category: originals and what was written from the same scores, as points with their intervals."""
    parts = group["parts"]
    step = 0.6 / max(1, len(parts) - 1)
    categories = list(card["categories"])
    for row in range(0, len(categories), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f4f5f8", zorder=0, lw=0)
    largest = 0.0
    for place, (kind, part) in enumerate(parts.items()):
        rates = [part["categories"][category]["mean"] for category in categories]
        rows = [row + (place - (len(parts) - 1) / 2) * step for row in range(len(categories))]
        values = [r["value"] for r in rates]
        largest = max(largest, *values)
        style = {"fmt": "o", "ms": 5.5, "elinewidth": 1.6, "zorder": 3, "color": KIND_COLOURS[kind]}
        axes.errorbar(values, rows, xerr=_ends(rates), **style)
    axes.set_yticks(range(len(categories)), [card["categories"][c] if names else "" for c in categories])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(categories) - 0.5, -0.5)
    # The interval of a tiny slice would press all points together: it runs out of the panel instead.
    axes.set_xlim(0, min(axes.get_xlim()[1], 2.5 * largest) if largest else None)
    axes.set_xlabel("hits per million tokens,\nmean over the category's phrases")
    levels = "all originals" if group["levels"] is None else f"score {levels_text(group['levels'])}"
    _finish(axes, f"By category, {levels}" if names else levels.capitalize(), "x")


def _ends(intervals: list[dict[str, float]]) -> list[list[float]]:
    """Error bars of intervals: their lengths below and above the values."""
    return [[r["value"] - r["low"] for r in intervals], [r["high"] - r["value"] for r in intervals]]


def _finish(axes: Any, title: str, grid_axis: str) -> None:
    axes.set_title(title, pad=10)
    axes.grid(axis=grid_axis, color=_GRID, lw=0.8, zorder=0)
    axes.set_axisbelow(True)


def _shorten(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= 24 else name[:23] + "…"
