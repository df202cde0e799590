"""Numbers of a comparison: shares with intervals, differences over prompts, and how they are written and drawn."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evaluation.measures.intervals import Estimate, wilson_interval
from evaluation.measures.paired_tests import PairedTest, paired_test
from finetune.files import write_json, write_text

_COLOURS: Final = ("#0b5fa5", "#e08214", "#6a6a6a", "#2a8a4a", "#b5338a", "#8c6d31")
Measured = Mapping[str, Any]


def refusals(measured: Measured, suite: str) -> dict[str, int]:
    """1 for each prompt of a suite that was refused, by id."""
    return {item["id"]: item["refused"] for item in measured["items"] if item["suite"] == suite}


def refusal_share(runs: Sequence[Measured], suite: str) -> Estimate:
    """Pooled over runs, with Wilson's interval. Runs of several seeds answer the same prompts: the interval takes answers for
    independent, so it is too narrow where seeds agree."""
    values = [value for run in runs for value in refusals(run, suite).values()]
    return wilson_interval(sum(values), len(values))


def refusal_difference(first: Sequence[Measured], second: Sequence[Measured], suite: str) -> PairedTest:
    """Second minus first on the same prompts: each prompt's mean over seeds, bootstrap over prompts."""
    return paired_test(_means(first, suite), _means(second, suite), value_range=(0, 1))


def _means(runs: Sequence[Measured], suite: str) -> list[float]:
    by_run = [refusals(run, suite) for run in runs]
    return [statistics.fmean(found[name] for found in by_run) for name in sorted(by_run[0])]


def gradient_spike(log: Sequence[Mapping[str, Any]]) -> float:
    """Largest over median gradient norm of a run's log (one entry an update)."""
    norms = [float(entry["grad_norm"]) for entry in log]
    return max(norms) / statistics.median(norms)


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest."""
    return max(values) - min(values)


def share_text(share: Estimate | PairedTest) -> str:
    """Value and interval."""
    value = share.difference if isinstance(share, PairedTest) else share.value
    sign = "+" if isinstance(share, PairedTest) else ""
    return f"{value:{sign}.3f} ({share.low:{sign}.3f} to {share.high:{sign}.3f})"


def estimate(share: Estimate | PairedTest) -> dict[str, Any]:
    """For JSON, which has no NaN."""
    return {name: None if value != value else value for name, value in asdict(share).items()}


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def write_report(folder: Path, numbers: Mapping[str, Any], text: str) -> None:
    """results.json and results.md."""
    write_json(folder / "results.json", dict(numbers))
    write_text(folder / "results.md", text)


def draw_shares(path: Path, title: str, groups: Mapping[str, Mapping[str, Estimate]]) -> None:
    """PNG of bars with 95 % intervals: a group of bars for each label, a colour for each name inside it (two at most)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.0, 1.3 * len(groups) + 2), 4), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    names = list(next(iter(groups.values())))
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        shares = [group[name] for group in groups.values()]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(groups))]
        values = [share.value for share in shares]
        whiskers = [[max(0.0, s.value - s.low) for s in shares], [max(0.0, s.high - s.value) for s in shares]]
        axis.bar(places, values, width * 0.92, label=name, color=_COLOURS[number])
        axis.errorbar(places, values, yerr=whiskers, fmt="none", ecolor="#222222", elinewidth=1, capsize=2)
    axis.set_xticks(range(len(groups)), list(groups), fontsize=8)
    axis.set(ylim=(0, 1.05), ylabel="share refused (by phrases)", title=title)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
    _save(figure, path)


def draw_trade(path: Path, points: Mapping[str, Sequence[tuple[float, float, str]]], cost: str, title: str) -> None:
    """PNG of what refusal costs: name -> (cost, share refused, text beside the point); six names at most; lines
    join the points of a name in their order. cost: of its axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for (name, found), colour in zip(points.items(), _COLOURS[: len(points)], strict=True):
        axis.plot(*zip(*[point[:2] for point in found], strict=True), "o-", color=colour, label=name, lw=1, ms=4)
        for loss, share, text in found:
            axis.annotate(text, (loss, share), xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour)
    axis.set(
        xscale="log", xlabel=cost, ylabel="harmful prompts refused", ylim=(0, 1.05), title=title,
    )  # fmt: skip
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", metadata={"Software": None})
    temporary.replace(path)
