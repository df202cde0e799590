"""Run a recipe: check what is finished, refuse what does not fit, do the rest stage by stage."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import yaml

from classifiers.errors import DataError, IdentityError, RecipeError
from pipeline.atomic_files import TEMPORARY_SUFFIX, temporary_path, write_text
from pipeline.executors.local import Job, run_local
from pipeline.executors.ray import run_ray
from pipeline.executors.slurm_jobs import read_jobs, refuse_while_queued
from pipeline.ingest.input_files import freeze_input_files, frozen_input_files, input_files
from pipeline.ledger import check_ledger
from pipeline.recipe import Recipe, dump_recipe, output_part, parse_recipe, with_models_of
from pipeline.run_folder import STAGE_FOLDERS, RunFolder
from pipeline.shard_state import DONE, FAILED, PENDING, STALE, StageState, stage_states, wanted_identity
from pipeline.stage import Stage
from pipeline.stages.order import build_stages, select_stages


class Observer(Protocol):
    """Who is told what happens; the front door draws it."""

    def plan(self, states: list[StageState]) -> None:
        """Before anything runs: the stages with their shards' states."""

    def stage_started(self, stage: Stage, shards: list[int]) -> None:
        """A stage begins with these shards to do."""

    def event(self, stage: Stage, kind: str, shard: int, value: Any) -> None:
        """`kind` is "progress" (rows so far), "done" (rows in) or "failed" (message)."""

    def stage_finished(self, stage: Stage) -> None:
        """All its shards were tried."""


@dataclass
class RunResult:
    """`failed` maps a stage to its failed shards; `shards_run` counts those that were done now."""

    run: RunFolder
    shards_run: int = 0
    failed: dict[str, list[int]] = field(default_factory=dict)


def load_frozen_recipe(run: RunFolder) -> Recipe:
    """The recipe that a run folder was made with. Raises DataError where the folder is no run."""
    if not run.recipe.is_file():
        raise DataError(f"{run.root}: not a run folder (it has no recipe.yaml); give the --output of a safetrove run")
    return parse_recipe(yaml.safe_load(run.recipe.read_text(encoding="utf-8")), str(run.recipe), None)


def run_states(run: RunFolder, force_stale: bool = False) -> list[StageState]:
    """The states of all shards of an existing run, by its frozen recipe and list of inputs, for those who only look."""
    return stage_states(run, load_run_stages(run), force_stale, read_only=True)


def load_run_stages(run: RunFolder) -> list[Stage]:
    """The stages of an existing run, from its folder alone: the sources are not listed again."""
    recipe = load_frozen_recipe(run)
    files = frozen_input_files(run)
    return build_stages(recipe, run, input_files(recipe, run) if files is None else files)


@dataclass
class OpenRun:
    """A run that this command holds: its stages, their states, and the names of those that were asked for."""

    run: RunFolder
    stages: list[Stage]
    states: list[StageState]
    chosen: set[str]


@contextmanager
def open_run(
    recipe: Recipe, root: Path, stage_names: list[str] | None, force_stale: bool, accept_forced: bool = False
) -> Iterator[OpenRun]:
    """Hold a run folder, check that the recipe fits what is there, freeze the recipe, remove what killed tasks left."""
    run = RunFolder(root)
    with run.locked():
        recipe = _fitting_recipe(run, recipe, force_stale)
        files = input_files(recipe, run)
        stages = build_stages(recipe, run, files)
        _check_resources(recipe, stages)
        chosen = {stage.name for stage in select_stages(stages, stage_names or [])}
        states = stage_states(run, stages, force_stale, accept_forced=accept_forced)
        to_do = any(state.shards(PENDING, STALE, FAILED) for state in states if state.stage.name in chosen)
        if to_do:
            refuse_while_queued(run)
        write_text(run.recipe, dump_recipe(recipe))
        freeze_input_files(files, run)
        if to_do or not (stage_names or read_jobs(run)):
            _remove_leftovers(run, states)
        yield OpenRun(run, stages, states, chosen)


def execute(
    recipe: Recipe,
    root: Path,
    observer: Observer,
    stage_names: list[str] | None = None,
    force_stale: bool = False,
    accept_forced: bool = False,
) -> RunResult:
    """Run all stages (or the named ones) of a recipe in the folder `root`, resuming what is there, here or with Ray.

    Raises IdentityError where finished shards were made under something else, DataError on a broken ledger.
    A stage with failed shards is the last one that runs: later ones read all of its shards. `accept_forced`: see
    `stage_states`.
    """
    run_jobs = run_ray if recipe.execution.executor == "ray" else run_local
    with open_run(recipe, root, stage_names, force_stale, accept_forced) as opened:
        run, stages, chosen = opened.run, opened.stages, opened.chosen
        _check_models(opened)
        observer.plan(opened.states)
        result = RunResult(run)
        for position, stage in enumerate(stages):
            if stage.name not in chosen:
                continue
            states = stage_states(run, stages[: position + 1], force_stale, accept_forced=accept_forced)
            todo = states[-1].shards(PENDING, STALE, FAILED)
            if not todo:
                continue
            jobs = _jobs(stage, todo, states)
            observer.stage_started(stage, todo)
            failed = run_jobs(stage, jobs, partial(observer.event, stage))
            observer.stage_finished(stage)
            result.shards_run += len(todo) - len(failed)
            if failed:
                result.failed[stage.name] = failed
                break
        check_ledger(stage_states(run, stages, force_stale, accept_forced=accept_forced))
    return result


def rerun_shards(
    run: RunFolder, stage_name: str, shards: list[int] | None, observer: Observer, executor: str | None = None
) -> RunResult:
    """Do shards of one stage again: the given ones, or (None) those that failed. Later stages become stale.

    Shards that were kept with --force-stale stay as they are until they are named: rerunning them is the way out of it.
    """
    recipe = recipe_of_rerun(run, executor)
    forget_shards(recipe, run, stage_name, shards)
    return execute(recipe, run.root, observer, [stage_name], accept_forced=True)


def recipe_of_rerun(run: RunFolder, executor: str | None) -> Recipe:
    """The frozen recipe, with another executor where one is given."""
    recipe = load_frozen_recipe(run)
    if executor is None:
        return recipe
    value = recipe.model_dump(mode="json")
    value["execution"]["executor"] = executor
    return parse_recipe(value, str(run.recipe), None)


def forget_shards(recipe: Recipe, run: RunFolder, stage_name: str, shards: list[int] | None) -> None:
    """Remove the manifests of these shards of a stage, so that they are done again; None: of none."""
    stages = build_stages(recipe, run, input_files(recipe, run))
    for stage in select_stages(stages, [stage_name]):
        if shards is None:
            continue
        beyond = [s for s in shards if not 0 <= s < stage.shards]
        if beyond:
            raise DataError(f"--rank {beyond[0]}: stage {stage.name} has the shards 0 to {stage.shards - 1}")
        with run.locked():
            refuse_while_queued(run)
            for shard in shards:
                run.manifest(stage.name, shard).unlink(missing_ok=True)


def _jobs(stage: Stage, todo: list[int], states: list[StageState]) -> list[Job]:
    finished = {(state.stage.name, shard): state.manifests[shard] for state in states for shard in state.shards(DONE)}
    jobs: list[Job] = []
    for shard in todo:
        identity = wanted_identity(stage, shard, finished)
        if identity is None:
            missing = next(ref for ref in stage.inputs(shard) if ref not in finished)
            raise DataError(
                f"stage {stage.name}: its input {missing[0]} {missing[1]:05d} is not finished; run the stages in order "
                "(leave out --stage)"
            )
        jobs.append((shard, identity))
    return jobs


def _check_models(opened: OpenRun) -> None:
    """Weights that are missing or have no known revision are told before the first stage, not when theirs begins."""
    for state in opened.states:
        if state.stage.name in opened.chosen and state.shards(PENDING, STALE, FAILED):
            _ = state.stage.identity


def _check_resources(recipe: Recipe, stages: list[Stage]) -> None:
    """Resources for a stage that does not exist are a typing error that would cost a night of waiting."""
    known = {name for stage in stages for name in (stage.name, stage.name.split("-")[0])}
    unknown = sorted(recipe.execution.stage_names() - known)
    if unknown:
        raise RecipeError(
            f"execution: resources for the stage {unknown[0]}, which this recipe does not have; it has "
            + ", ".join(stage.name for stage in stages)
        )


def _fitting_recipe(run: RunFolder, recipe: Recipe, force_stale: bool) -> Recipe:
    """A run keeps the recipe under which its first shard was finished, but for what does not change its output.

    Returns the recipe with the names that the finished shards know its models by.
    """
    if not run.recipe.is_file():
        # what a first command leaves that was killed before the recipe had its name
        ours = {".lock", temporary_path(run.recipe).name}
        if run.root.is_dir() and any(p.name not in ours for p in run.root.iterdir()):
            raise DataError(f"{run.root}: the folder is not empty and no run of ours; give another --output")
        return recipe
    if not any(run.root.glob("manifests/*/[0-9]*[0-9].json")):
        return recipe
    frozen = load_frozen_recipe(run)
    recipe = with_models_of(recipe, frozen)
    old, new = (output_part(r.model_dump(mode="json")) for r in (frozen, recipe))
    lines = [
        f"    {key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if lines and not force_stale:
        raise IdentityError(
            f"{run.root}: this run was started with another recipe:\n" + "\n".join(lines) + "\n"
            "Nothing was run. Put the old value back, or take a new --output folder, or keep what is finished as it "
            "is with --force-stale (written into the manifests and the card)."
        )
    return recipe


def _remove_leftovers(run: RunFolder, states: list[StageState]) -> None:
    """What killed tasks left in the folders of the stages; the lock says that nobody else is writing there.

    What has a temporary name; and of shards that are done, whose task was killed behind its manifest, the record of a
    failure and the work folder. Work folders of other shards hold answers that are not asked for again.
    """
    for folder in STAGE_FOLDERS:
        for path in list((run.root / folder).rglob(f"*{TEMPORARY_SUFFIX}")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    for state in states:
        for shard in state.shards(DONE):
            run.failure(state.stage.name, shard).unlink(missing_ok=True)
            shutil.rmtree(run.work(state.stage.name, shard), ignore_errors=True)
            run.shard_lock(state.stage.name, shard).unlink(missing_ok=True)
