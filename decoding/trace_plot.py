"""Pictures of one answer, token by token: how likely the harmfulness tag is, or a gate's potential and where it opened."""

import io
from collections.abc import Sequence
from typing import Any

# Beyond so many tokens their texts under the axis cannot be read.
_MOST_LABELS = 120


def draw_tag_probability(tokens: Sequence[str], probabilities: Sequence[float], title: str) -> bytes:
    """PNG: P(tag) after each token, in [0, 1], on a logarithmic axis. Raises ValueError for different lengths."""
    figure, axis = _figure(tokens)
    shown = [max(p, 1e-8) for p in probabilities]
    if len(shown) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens and {len(shown)} probabilities")
    axis.bar(range(len(shown)), shown, 0.85, color="#a3506b")
    axis.set_yscale("log")
    axis.set_ylabel("P(tag)")
    axis.set_title(title, fontsize=10, loc="left")
    return _png(figure)


def draw_gate(
    tokens: Sequence[str], potential: Sequence[float], fired: Sequence[bool], threshold: float, title: str
) -> bytes:
    """PNG: a gate's potential before each token, its threshold, and the tokens at which it opened."""
    figure, axis = _figure(tokens)
    places = range(len(tokens))
    axis.plot(places, list(potential), color="#4c6a92", linewidth=1.2, label="potential")
    opened = [i for i in places if fired[i]]
    axis.scatter(opened, [potential[i] for i in opened], color="#a3506b", s=18, zorder=3, label="gate opens")
    axis.axhline(threshold, color="#8a8a8a", linestyle="--", linewidth=1, label="threshold")
    axis.set_ylabel("potential")
    axis.set_title(title, fontsize=10, loc="left")
    axis.legend(frameon=False, fontsize=8)
    return _png(figure)


def _figure(tokens: Sequence[str]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(30.0, max(5.0, 0.19 * len(tokens) + 1.5)), 3.4), dpi=110)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    if len(tokens) <= _MOST_LABELS:
        # A dollar sign would begin a formula.
        labels = [repr(token)[1:-1].replace("$", r"\$") for token in tokens]
        axis.set_xticks(range(len(tokens)), labels, rotation=90, fontsize=7)
    else:
        axis.set_xlabel("token")
    axis.set_xlim(-0.6, len(tokens) - 0.4)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _png(figure: Any) -> bytes:
    figure.tight_layout()
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
