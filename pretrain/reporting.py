"""Where the figures of a run go: log lines, `metrics.jsonl`, TensorBoard, and a bar on a terminal. First rank only."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pretrain.metrics import (
    MetricsFile,
    Progress,
    format_log_line,
    format_tag_probability_lines,
    format_validation_line,
)
from pretrain.recipe import PretrainRecipe

if TYPE_CHECKING:
    from pretrain.tag_probability import TagMeasure, TagProbability
    from pretrain.tensorboard import EventFiles


class Report:
    """Everything that a run says. With `speaks` false (all ranks but the first) it says nothing."""

    def __init__(
        self, recipe: PretrainRecipe, resumed_from: int, write_line: Callable[[str], None], speaks: bool, terminal: bool
    ) -> None:
        self._write_line, self._speaks = write_line, speaks
        self._tag_folder = recipe.save / "tag_probability"
        self._bar: Any = None
        self._events: EventFiles | None = None
        if not speaks:
            return
        self._metrics = MetricsFile(recipe.save / "metrics.jsonl", resumed_from)
        if recipe.tensorboard is not None:
            self._events = _open_events(recipe.tensorboard, resumed_from)
        if terminal:
            self._bar = _new_bar()
            self._task = self._bar.add_task("pretraining", total=recipe.train_iters, completed=resumed_from, loss="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._events is not None:
            self._events.close()

    def add_iteration(self, iteration: int) -> None:
        """Move the bar, where there is one."""
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration)

    def add_progress(self, progress: Progress) -> None:
        """Megatron's log line, a line of metrics.jsonl, a point of each curve."""
        if not self._speaks:
            return
        self._say(format_log_line(progress))
        self._metrics.append(vars(progress))
        if self._events is not None:
            self._events.add_progress(progress)
        if self._bar is not None:
            self._bar.update(self._task, loss=f"loss {progress.loss:.3f}")

    def add_validation(self, iteration: int, losses: dict[str, float]) -> None:
        """Loss of each held-out source."""
        if not self._speaks:
            return
        self._say(format_validation_line(iteration, losses))
        self._metrics.append({"iteration": iteration, "validation_loss": losses})
        if self._events is not None:
            self._events.add_validation(iteration, losses)

    def add_tag_probability(self, iteration: int, held_out: "TagProbability", measure: "TagMeasure") -> None:
        """AUROC of P(tag | context) in the log and metrics.jsonl; every document's value in a file of the iteration."""
        if not self._speaks:
            return
        for line in format_tag_probability_lines(iteration, measure.separations):
            self._say(line)
        self._metrics.append({"iteration": iteration, "tag_probability": measure.record()})
        held_out.write(measure, self._tag_folder / f"iter_{iteration:07d}.jsonl")

    def _say(self, line: str) -> None:
        if self._bar is None:
            self._write_line(line)
        else:  # above the bar
            self._bar.console.print(line, markup=False, highlight=False)


def _open_events(folder: Path, resumed_from: int) -> "EventFiles":
    from pretrain.tensorboard import EventFiles

    return EventFiles(folder, resumed_from)


def _new_bar() -> Any:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
