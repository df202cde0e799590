"""What a run says of itself: Megatron's log line, and one JSON object a line in `metrics.jsonl`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.atomic_files import write_text
from pretrain.auroc import Separation


@dataclass(frozen=True)
class Progress:
    """Figures of the iterations since the last log line; times and losses are means over them.

    Tokens are those of all ranks, `tflops_per_second` those of one device; `data_share` is the part of the time that went
    into reading samples. `tokens_by_source` and `tokens_by_level` count from the start of the run. `loss` is NaN where no
    iteration had a finite one; `model_flops_utilisation` (0 to 1) is None where the device's peak is unknown.
    """

    iteration: int
    train_iters: int
    consumed_samples: int
    seconds_per_iteration: float
    tokens_per_second: float
    tflops_per_second: float
    model_flops_utilisation: float | None
    data_share: float
    learning_rate: float
    global_batch_size: int
    loss: float
    grad_norm: float
    skipped_iterations: int
    nan_iterations: int
    tokens_by_source: dict[str, int]
    tokens_by_level: dict[str, int]


def format_log_line(progress: Progress) -> str:
    """The line that people grep in Megatron's logs, with tokens a second and MFU at its end."""
    utilisation = progress.model_flops_utilisation
    return (
        f" iteration {progress.iteration:4d}/{progress.train_iters:4d} |"
        f" consumed samples: {progress.consumed_samples:4d} |"
        f" elapsed time per iteration (ms): {1000 * progress.seconds_per_iteration:.1f} |"
        f" throughput per GPU (TFLOP/s/GPU): {progress.tflops_per_second:.1f} |"
        f" learning rate: {progress.learning_rate:.6E} |"
        f" global batch size: {progress.global_batch_size:3d} |"
        f" lm loss: {progress.loss:.3E} |"
        f" loss scale: 1.0 |"
        f" grad norm: {progress.grad_norm:.3f} |"
        f" number of skipped iterations: {progress.skipped_iterations} |"
        f" number of nan iterations: {progress.nan_iterations} |"
        f" tokens per second: {progress.tokens_per_second:.0f} |"
        f" MFU: {'N/A' if utilisation is None else f'{100 * utilisation:.1f}%'} |"
    )


def format_validation_line(iteration: int, losses: dict[str, float]) -> str:
    """Megatron's validation line, with one loss (nats a token) and perplexity for each source; a perplexity that no float
    holds, of a loss above 709, is INF."""
    values = " |".join(
        f" {source} loss: {loss:.6E} | {source} PPL: {_perplexity(loss):.6E}" for source, loss in losses.items()
    )
    return f" validation loss at iteration {iteration} |{values} |"


def _perplexity(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def format_tag_probability_lines(iteration: int, separations: Mapping[int, Separation]) -> list[str]:
    """One line for each score that counts as unsafe: AUROC over all documents, averaged over sources, and within each."""
    return [
        f" tag probability at iteration {iteration} | unsafe from score {score} |"
        f" AUROC: {_or_none(found.overall)} | within sources: {_or_none(found.average)} |"
        + "".join(f" {source}: {value:.4f} |" for source, value in found.by_source.items())
        for score, found in separations.items()
    ]


def _or_none(value: float | None) -> str:
    return "N/A" if value is None else f"{value:.4f}"


class MetricsFile:
    """Appends to `path`. A resumed run first drops the lines after its checkpoint: it will write those iterations again."""

    def __init__(self, path: Path, resumed_from: int) -> None:
        self._path = path
        if path.is_file():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _within(line, resumed_from)]
            write_text(path, "".join(line + "\n" for line in kept))

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line; a number that JSON does not have (NaN, infinity), at any depth, becomes null."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(json_value(record), allow_nan=False) + "\n")


def json_value(value: Any) -> Any:
    """The value with None in place of NaN and infinity, also inside mappings and lists."""
    if isinstance(value, Mapping):
        return {key: json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _within(line: str, iteration: int) -> bool:
    try:
        return json.loads(line)["iteration"] <= iteration
    except (ValueError, KeyError):  # the torn last line of a killed process
        return False
