"""Train by a recipe from where its save folder stands to its last iteration.

torch is imported only when there is something left to do. Under `torchrun` every process calls this.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.checkpoint import TrainingState, find_start, load_state, refuse_other_batch_size, state_sha256
from pretrain.errors import PretrainInterruptedError
from pretrain.export import NOTE, check_destination, export_model, tokenizer_folder, whole_weights
from pretrain.metrics import Progress
from pretrain.recipe import PretrainRecipe, load_recipe
from pretrain.reporting import Report
from pretrain.stop_signal import StopSignal

if TYPE_CHECKING:
    from pretrain.tag_probability import TagProbability
    from pretrain.training import Iteration, Training
    from pretrain.validation import Validation


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
    recipe_path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    write_line: Callable[[str], None] = print,
    terminal: bool = False,
) -> PretrainResult:
    """`pretrain` by the recipe file at `recipe_path`, with `--set`-like overrides by dotted key."""
    return pretrain(load_recipe(recipe_path, overrides), write_line, terminal)


def pretrain(
    recipe: PretrainRecipe, write_line: Callable[[str], None] = print, terminal: bool = False
) -> PretrainResult:
    """Train to `train_iters` (or to `exit_interval`), resuming from the save folder; then export if asked for.

    Resuming gives the bits of an uninterrupted run. Returns at once, without importing torch, when nothing is left to
    do. Lines are written on the first rank; `terminal` draws a progress bar below them. Raises `PretrainInterruptedError`
    on SIGTERM, after saving; `PretrainDataError` and `CheckpointError` before the first iteration.
    """
    start = find_start(recipe.save, recipe.load, recipe.finetune)
    resume_from = None if start is None or start.weights_only else start.iteration
    if start is not None and resume_from is not None and (keys := recipe.keys_in_samples()):
        saved = load_state(start.save, start.iteration).global_batch_size
        refuse_other_batch_size(saved, recipe.global_batch_size, keys, start.save)
    done = start is not None and start.save == recipe.save and start.iteration >= recipe.train_iters
    if start is not None and done and _exported(recipe, state := load_state(recipe.save, start.iteration)):
        return _result(state, 0, start.iteration)
    if recipe.export is not None:
        check_destination(recipe.export)
    from pretrain.mesh import open_ranks
    from pretrain.tag_probability import TagProbability
    from pretrain.training import Training
    from pretrain.validation import Validation

    with open_ranks(recipe) as ranks:
        training = Training(recipe, ranks, start)
        blend = training.data.blend
        tokenizer = None if recipe.export is None else tokenizer_folder(recipe.data, blend)
        held_out = None if recipe.validation is None else Validation(recipe, recipe.validation, blend)
        settings = recipe.tag_probability
        tagged = None if settings is None else TagProbability(recipe, settings, blend)
        begun_at = training.state.iteration
        training.open_save_folder()
        with Report(recipe, begun_at, write_line, ranks.rank == 0, terminal) as report, StopSignal() as stop:
            train(training, held_out, tagged, report, stop)
        if tokenizer is not None and training.state.iteration >= recipe.train_iters:
            _export(training, tokenizer)
        return _result(training.state, training.state.iteration - begun_at, resume_from)


def train(
    training: "Training",
    held_out: "Validation | None",
    tagged: "TagProbability | None",
    report: Report,
    stop: StopSignal,
) -> None:
    """Iterate to the last iteration, to the next multiple of `exit_interval`, or to SIGTERM; then save and wait for it."""
    recipe, state = training.recipe, training.state
    window = _Window()
    while state.iteration < recipe.train_iters:
        iteration = training.iterate(lambda: stop.requested)
        window.add(iteration)
        report.add_iteration(state.iteration)
        last = state.iteration == recipe.train_iters
        leave = recipe.exit_interval is not None and state.iteration % recipe.exit_interval == 0
        ends = last or leave or iteration.stop_requested
        if ends or state.iteration % recipe.log_interval == 0:
            report.add_progress(window.progress(training))
            window = _Window()
        if held_out is not None and (last or state.iteration % recipe.eval_interval == 0):
            report.add_validation(state.iteration, held_out.losses(training))
            window.leave_out()
        if tagged is not None and tagged.due(state.iteration):
            report.add_tag_probability(state.iteration, tagged, tagged.measure(training))
            window.leave_out()
        if ends or state.iteration % recipe.save_interval == 0:
            training.save()
        if ends:
            training.finish_saving()
        if iteration.stop_requested and not last:
            raise PretrainInterruptedError(
                f"stopped by SIGTERM; iteration {state.iteration} of {recipe.train_iters} is saved in {recipe.save}: "
                "run the same command again to go on"
            )
        if leave:
            return


def _export(training: "Training", tokenizer: Path) -> None:
    recipe, state = training.recipe, training.state
    assert recipe.export is not None
    weights = whole_weights(training.decoder)
    if training.ranks.rank == 0:
        recipe.export.parent.mkdir(parents=True, exist_ok=True)
        blend = training.data.blend
        export_model(
            training.decoder, weights, blend, tokenizer, recipe.seq_length, state.iteration, state_sha256(state), recipe.export
        )  # fmt: skip
    training.ranks.wait_for_all()


@dataclass
class _Window:
    """The iterations since the last log line."""

    begun: float = field(default_factory=time.perf_counter)
    iterations: "list[Iteration]" = field(default_factory=list)

    def add(self, iteration: "Iteration") -> None:
        self.iterations.append(iteration)

    def leave_out(self) -> None:
        """Begin the clock again where nothing has been added yet: a validation is no part of an iteration."""
        if not self.iterations:
            self.begun = time.perf_counter()

    def progress(self, training: "Training") -> Progress:
        from pretrain.model import flops_per_token

        recipe, state = training.recipe, training.state
        seconds = (time.perf_counter() - self.begun) / len(self.iterations)
        tokens_per_second = recipe.global_batch_size * recipe.seq_length / seconds
        flops = flops_per_token(recipe.model, training.data.blend.vocabulary_size, recipe.seq_length)
        tflops = tokens_per_second * flops / 1e12 / training.ranks.count
        peak = recipe.peak_tflops or training.ranks.peak_tflops
        losses = [iteration.loss for iteration in self.iterations if math.isfinite(iteration.loss)]
        return Progress(
            iteration=state.iteration,
            train_iters=recipe.train_iters,
            consumed_samples=state.consumed_samples,
            seconds_per_iteration=seconds,
            tokens_per_second=tokens_per_second,
            tflops_per_second=tflops,
            model_flops_utilisation=None if peak is None else tflops / peak,
            data_share=sum(iteration.data_seconds for iteration in self.iterations) / (seconds * len(self.iterations)),
            learning_rate=self.iterations[-1].learning_rate,
            global_batch_size=recipe.global_batch_size,
            loss=sum(losses) / len(losses) if losses else math.nan,
            grad_norm=self.iterations[-1].grad_norm,
            skipped_iterations=sum(iteration.skipped for iteration in self.iterations),
            nan_iterations=len(self.iterations) - len(losses),
            tokens_by_source=dict(state.tokens_by_source),
            tokens_by_level=dict(state.tokens_by_level),
        )


def _exported(recipe: PretrainRecipe, state: TrainingState) -> bool:
    """Whether the export that is asked for is there: not that of another run, whose last iteration may have the same number."""
    if recipe.export is None:
        return True
    if not (recipe.export / NOTE).is_file():
        return False
    note = json.loads((recipe.export / NOTE).read_text(encoding="utf-8"))
    digest = state_sha256(state)  # exports older than this key have none
    return note["iteration"] == state.iteration and note.get("state", digest) == digest


def _result(state: TrainingState, iterations_run: int, resumed_from: int | None) -> PretrainResult:
    return PretrainResult(
        state.first_loss, state.last_loss, iterations_run, resumed_from, sum(state.tokens_by_source.values())
    )
