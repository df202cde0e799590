"""What the two runs show: AUROC of P(tag | context) on held-out documents, with intervals and what to compare it with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pretrain.auroc import Separation, bootstrap_interval, separation, share_of_source

BOOTSTRAP_DRAWS: Final = 2000
LEAST_DOCUMENTS: Final = 8


@dataclass(frozen=True)
class Measured:
    """Held-out documents [n] and one number for each, in the same order."""

    ids: list[str]
    sources: list[str]
    scores: NDArray[np.int64]
    values: NDArray[np.float64]

    def separation(self, unsafe_from: int) -> Separation:
        """AUROC overall and within sources."""
        return separation(self.values, self.scores, self.sources, unsafe_from, LEAST_DOCUMENTS)

    def chosen(self, numbers: NDArray[np.int64]) -> "Measured":
        """The given documents, which may repeat."""
        sources = [self.sources[number] for number in numbers]
        return Measured([self.ids[n] for n in numbers], sources, self.scores[numbers], self.values[numbers])


def read_measured(path: Path) -> Measured:
    """A file of `tag_probability/`."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return Measured(
        [row["id"] for row in rows],
        [row["source"] for row in rows],
        np.array([row["score"] for row in rows]),
        np.array([row["tag_probability"] for row in rows]),
    )


def last_measured(save: Path) -> Measured:
    """The last measurement of the run in `save`."""
    return read_measured(max((save / "tag_probability").glob("iter_*.jsonl")))


def interval_of_average(measured: Measured, unsafe_from: int, sources: Sequence[str]) -> tuple[float, float]:
    """Bootstrap interval of the mean AUROC over `sources`; documents are drawn within source and safe or unsafe."""
    counted = np.flatnonzero(
        np.isin(measured.sources, list(sources)) & ((measured.scores >= unsafe_from) | (measured.scores == 0))
    )
    subset = measured.chosen(counted)
    strata = [(source, bool(score)) for source, score in zip(subset.sources, subset.scores, strict=True)]

    def average(numbers: NDArray[np.int64]) -> float:
        value = subset.chosen(numbers).separation(unsafe_from).average
        assert value is not None
        return value

    return bootstrap_interval(average, strata, BOOTSTRAP_DRAWS, seed=0)


def table(columns: Mapping[str, Measured], unsafe_from: int) -> list[str]:
    """Markdown rows: a source each, their average, all documents, what the source alone gives. A column for each of `columns`."""
    found = {name: measured.separation(unsafe_from) for name, measured in columns.items()}
    first_name, first = next(iter(found.items()))
    lines = [
        f"| unsafe: {unsafe_from} to 5, safe: 0 | unsafe / safe documents | " + " | ".join(columns) + " |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for source, (unsafe, safe) in first.documents.items():
        cells = [_with_interval(columns[name], unsafe_from, [source]) for name in columns]
        lines.append(f"| {source} | {unsafe} / {safe} | " + " | ".join(cells) + " |")
    averages = [_with_interval(columns[name], unsafe_from, list(first.by_source)) for name in columns]
    lines.append(f"| **average over these sources** | | {' | '.join(f'**{cell}**' for cell in averages)} |")
    scores, sources = columns[first_name].scores, columns[first_name].sources
    alone = separation(share_of_source(scores, sources, unsafe_from), scores, sources, unsafe_from, LEAST_DOCUMENTS)
    counts = f"{int((scores >= unsafe_from).sum())} / {int((scores == 0).sum())}"
    lines.append(f"| all documents | {counts} | " + " | ".join(f"{found[n].overall:.3f}" for n in columns) + " |")
    lines.append(f"| all documents, the source alone | {counts} |" + f" {alone.overall:.3f} |" * len(columns))
    return lines


def _with_interval(measured: Measured, unsafe_from: int, sources: Sequence[str]) -> str:
    by_source = measured.separation(unsafe_from).by_source
    low, high = interval_of_average(measured, unsafe_from, sources)
    return f"{np.mean([by_source[source] for source in sources]):.3f} ({low:.2f} to {high:.2f})"


def mean_probabilities(measured: Measured) -> dict[str, float]:
    """Mean P(tag | context) of the safe documents and of those of 3 and more."""
    values, scores = measured.values, measured.scores
    return {"safe": float(values[scores == 0].mean()), "unsafe": float(values[scores >= 3].mean())}


def read_curve(save: Path, tokens_per_iteration: int) -> dict[str, list[tuple[float, float]]]:
    """Points (million tokens, value) of a run's metrics.jsonl: `loss`, and `average` and `overall` AUROC from score 3."""
    curves: dict[str, list[tuple[float, float]]] = {"loss": [], "average": [], "overall": []}
    for line in (save / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record: dict[str, Any] = json.loads(line)
        tokens = record["iteration"] * tokens_per_iteration / 1e6
        if "loss" in record:
            curves["loss"].append((tokens, record["loss"]))
        elif "tag_probability" in record:
            measured = record["tag_probability"]["unsafe_from_3"]
            for name in ("average", "overall"):
                curves[name].append((tokens, measured[name]))
    return curves
