"""Loss, and AUROC of P(tag | context), over training tokens, of both runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

Curves = Mapping[str, list[tuple[float, float]]]

# Told apart by hue and by lightness.
_COLOURS: Final = {"tagged": "#0b5fa5", "control": "#e08214"}


def draw(runs: Mapping[str, Curves], path: Path) -> None:
    """Write a PNG of two panels; `runs` maps `tagged` and `control` to the curves of `results.read_curve`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    loss, area = figure.subplots(1, 2)
    for name, curves in runs.items():
        colour = _COLOURS[name]
        loss.plot(*zip(*curves["loss"], strict=True), color=colour, linewidth=1, alpha=0.85, label=name)
        area.plot(*zip(*curves["average"], strict=True), color=colour, marker="o", label=f"{name}: mean within sources")
        area.plot(
            *zip(*curves["overall"], strict=True),
            color=colour, marker="s", markerfacecolor="white", linestyle="--", linewidth=1, label=f"{name}: all documents",
        )  # fmt: skip
    area.axhline(0.5, color="0.6", linewidth=1)
    area.axhline(0.8, color="0.6", linewidth=1, linestyle=":")
    area.annotate("goal 0.8", (0, 0.8), xycoords=("axes fraction", "data"), xytext=(3, 2), textcoords="offset points")
    area.annotate("chance", (0, 0.5), xycoords=("axes fraction", "data"), xytext=(3, 2), textcoords="offset points")
    loss.set(xlabel="training tokens (million)", ylabel="loss (nats a token)", title="Training loss")
    area.set(
        xlabel="training tokens (million)", ylabel="AUROC", ylim=(0.2, 1),
        title="P(tag | context), held out: score 3 to 5 against 0",
    )  # fmt: skip
    for axes in (loss, area):
        axes.grid(alpha=0.25)
        axes.set_xlim(left=0)
    loss.legend()
    area.legend(fontsize=8, loc="upper right")
    figure.savefig(path, dpi=130)
