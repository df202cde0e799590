"""Train by a recipe from where its save folder stands to its last iteration.

torch is imported only when there is something left to do.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.checkpoint import TrainingState, latest_iteration, load_state
from pretrain.errors import PretrainInterruptedError
from pretrain.export import NOTE, export_model, tokenizer_folder
from pretrain.metrics import MetricsFile, Progress, format_log_line
from pretrain.recipe import PretrainRecipe, load_recipe
from pretrain.stop_signal import StopSignal

if TYPE_CHECKING:
    from pretrain.training import Iteration, Training


@dataclass(frozen=True)
class PretrainResult:
    """Losses in nats a token, of the first and the last iteration of the whole run, earlier parts included.

    `iterations_run` counts this call alone; `resumed_from` is the iteration it began after, None for a new run;
    `tokens` are the training tokens of the whole run.
    """

    first_loss: float | None
    last_loss: float | None
    iterations_run: int
    resumed_from: int | None
    tokens: int


def run(
    recipe_path: str | Path, overrides: Mapping[str, Any] | None = None, write_line: Callable[[str], None] = print
) -> PretrainResult:
    """`pretrain` by the recipe file at `recipe_path`, with `--set`-like overrides by dotted key."""
    return pretrain(load_recipe(recipe_path, overrides), write_line)


def pretrain(recipe: PretrainRecipe, write_line: Callable[[str], None] = print) -> PretrainResult:
    """Train to `train_iters` (or to `exit_interval`), resuming from the save folder; then export if asked for.

    Resuming gives the bits of an uninterrupted run. Returns at once, without importing torch, when nothing is left to
    do. Raises `PretrainInterruptedError` on SIGTERM, after saving; `PretrainDataError` and `CheckpointError` before the
    first iteration.
    """
    resume_from = latest_iteration(recipe.save)
    if resume_from is not None and resume_from >= recipe.train_iters and _exported(recipe, resume_from):
        return _result(load_state(recipe.save, resume_from), 0, resume_from)
    from pretrain.training import Training

    training = Training(recipe, resume_from)
    if recipe.export is not None:
        tokenizer = tokenizer_folder(recipe.data, training.data.blend)
    begun_at = training.state.iteration
    recipe.save.mkdir(parents=True, exist_ok=True)
    with StopSignal() as stop:
        _iterate(training, MetricsFile(recipe.save / "metrics.jsonl", begun_at), stop, write_line)
    state = training.state
    if recipe.export is not None and state.iteration >= recipe.train_iters:
        recipe.export.parent.mkdir(parents=True, exist_ok=True)
        export_model(
            training.decoder, training.data.blend, tokenizer, recipe.seq_length, state.iteration, recipe.export
        )
    return _result(state, state.iteration - begun_at, resume_from)


def _iterate(training: "Training", metrics: MetricsFile, stop: StopSignal, write_line: Callable[[str], None]) -> None:
    recipe, state = training.recipe, training.state
    window = _Window()
    while state.iteration < recipe.train_iters:
        window.add(training.iterate())
        last = state.iteration == recipe.train_iters
        leave = recipe.exit_interval is not None and state.iteration % recipe.exit_interval == 0
        if last or leave or stop.requested or state.iteration % recipe.log_interval == 0:
            progress = window.progress(training)
            write_line(format_log_line(progress))
            metrics.append(progress)
            window = _Window()
        if last or leave or stop.requested or state.iteration % recipe.save_interval == 0:
            training.save()
        if stop.requested and not last:
            raise PretrainInterruptedError(
                f"stopped by SIGTERM; iteration {state.iteration} of {recipe.train_iters} is saved in {recipe.save}: "
                "run the same command again to go on"
            )
        if leave:
            return


@dataclass
class _Window:
    """The iterations since the last log line."""

    begun: float = field(default_factory=time.perf_counter)
    iterations: "list[Iteration]" = field(default_factory=list)

    def add(self, iteration: "Iteration") -> None:
        self.iterations.append(iteration)

    def progress(self, training: "Training") -> Progress:
        from pretrain.model import flops_per_token

        recipe, state = training.recipe, training.state
        seconds = (time.perf_counter() - self.begun) / len(self.iterations)
        tokens_per_second = recipe.global_batch_size * recipe.seq_length / seconds
        flops = flops_per_token(recipe.model, training.data.blend.vocabulary_size, recipe.seq_length)
        losses = [iteration.loss for iteration in self.iterations if math.isfinite(iteration.loss)]
        return Progress(
            iteration=state.iteration,
            train_iters=recipe.train_iters,
            consumed_samples=state.consumed_samples,
            seconds_per_iteration=seconds,
            tokens_per_second=tokens_per_second,
            tflops_per_second=tokens_per_second * flops / 1e12,
            learning_rate=self.iterations[-1].learning_rate,
            global_batch_size=recipe.global_batch_size,
            loss=sum(losses) / len(losses) if losses else math.nan,
            grad_norm=self.iterations[-1].grad_norm,
            skipped_iterations=sum(iteration.skipped for iteration in self.iterations),
            nan_iterations=len(self.iterations) - len(losses),
            tokens_by_source=dict(state.tokens_by_source),
        )


def _exported(recipe: PretrainRecipe, iteration: int) -> bool:
    if recipe.export is None:
        return True
    note = recipe.export / NOTE
    return note.is_file() and json.loads(note.read_text(encoding="utf-8"))["iteration"] == iteration


def _result(state: TrainingState, iterations_run: int, resumed_from: int | None) -> PretrainResult:
    return PretrainResult(
        state.first_loss, state.last_loss, iterations_run, resumed_from, sum(state.tokens_by_source.values())
    )
