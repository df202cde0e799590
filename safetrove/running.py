"""Commands that run stages: shared by `run`, `rerun` and `demo`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from pipeline.executors.slurm_jobs import compact_indices
from pipeline.recipe import Recipe
from pipeline.run import Observer, RunResult, execute, recipe_of_rerun, rerun_shards, run_states
from pipeline.run_folder import RunFolder
from pipeline.submit import Submission, submit_rerun, submit_run
from safetrove.progress import observer
from safetrove.status import print_status, summary


def run_root(recipe: Recipe, output: Path | None) -> Path:
    """Where a recipe's run lies: --output, else the recipe's output, else runs/NAME."""
    return output or Path(recipe.output or Path("runs") / recipe.name)


def run_recipe(recipe: Recipe, root: Path, stages: list[str], force_stale: bool) -> int:
    """Run with progress, then print the ledger; with Slurm, submit and return. Returns the exit code."""
    if recipe.execution.executor == "slurm":
        return _print_submission(submit_run(recipe, root, stages, force_stale))
    return _observed(root, lambda watcher: execute(recipe, root, watcher, stages, force_stale), force_stale)


def rerun_stage(run: RunFolder, stage: str, shards: list[int] | None, executor: str | None = None) -> int:
    """Do shards again with progress, then print the ledger; with Slurm, submit them. Returns the exit code."""
    recipe = recipe_of_rerun(run, executor)
    if recipe.execution.executor == "slurm":
        return _print_submission(submit_rerun(recipe, run, stage, shards))
    return _observed(run.root, lambda watcher: rerun_shards(run, stage, shards, watcher, executor), False)


def _print_submission(submission: Submission) -> int:
    """What went to Slurm, and how to follow it."""
    for job in submission.jobs:
        shards = job.shards
        named = compact_indices(shards) if len(shards) < 20 else f"{shards[0]} to {shards[-1]}"
        print(f"{job.stage}: job {job.job}, {len(shards)} tasks (shards {named})")
    if submission.jobs:
        print(f"\nsubmitted; follow it with: safetrove status {submission.run.root}")
    else:
        print(f"nothing was left to submit: {submission.run.root}")
    return 0


def _observed(root: Path, work: Callable[[Observer], RunResult], force_stale: bool) -> int:
    started = time.monotonic()
    watcher, shown = observer()
    with shown:
        result = work(watcher)
    status = summary(result.run, run_states(result.run, force_stale))
    print_status(status, Console(width=None if sys.stdout.isatty() else 160))
    for stage, shards in result.failed.items():
        names = ",".join(str(shard) for shard in shards)
        print(
            f"\n{len(shards)} shards of stage {stage} failed ({names}); later stages were not started. After mending the "
            f"cause:\n  safetrove rerun {root} --stage {stage} --failed\nthen the first command again.",
            file=sys.stderr,
        )
    if not result.failed and not result.shards_run:
        print(
            f"\nnothing was left to do: {root} is complete" if status["complete"] else "\nnothing was left to do here"
        )
    elif not result.failed:
        print(f"\n{result.shards_run} shards done in {time.monotonic() - started:.0f} s: {root}")
        if not status["complete"]:
            print(
                "what is stale or pending above, and the card, are as before: `safetrove run` with the recipe does the rest"
            )
    return 1 if result.failed else 0
