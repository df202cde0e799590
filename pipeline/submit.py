"""Submit a run to Slurm: what is not finished, and what has to be looked at again because something before it is redone."""

from dataclasses import dataclass, field
from pathlib import Path

from classifiers.errors import DataError
from pipeline.executors.slurm import submit_stages
from pipeline.executors.slurm_jobs import SlurmJob, read_jobs
from pipeline.recipe import Recipe
from pipeline.run import OpenRun, forget_shards, open_run
from pipeline.run_folder import RunFolder
from pipeline.shard_state import DONE
from pipeline.stage import ShardRef, Stage


@dataclass
class Submission:
    """The arrays that one command gave to Slurm; none where nothing was left to do."""

    run: RunFolder
    jobs: list[SlurmJob] = field(default_factory=list)


def submit_run(recipe: Recipe, root: Path, stage_names: list[str] | None, force_stale: bool) -> Submission:
    """Submit what is to be done of all stages, or of the named ones."""
    with open_run(recipe, root, stage_names, force_stale) as opened:
        work = shards_to_submit(opened, opened.chosen)
        jobs = submit_stages(opened.run, work, recipe.execution.slurm, force_stale) if work else []
    return Submission(opened.run, jobs)


def submit_rerun(recipe: Recipe, run: RunFolder, stage_name: str, shards: list[int] | None) -> Submission:
    """Submit shards of one stage again (None: those that are not done), and what follows from them in later stages.

    Later stages are those that were submitted before or have finished shards: a run that was asked for some stages alone
    stays so.
    """
    forget_shards(recipe, run, stage_name, shards)
    with open_run(recipe, run.root, None, False, accept_forced=True) as opened:
        names = [stage.name for stage in opened.stages]
        first = next(i for i, name in enumerate(names) if stage_name in (name, name.split("-")[0]))
        begun = {job.stage for job in read_jobs(run)} | {s.stage.name for s in opened.states if s.manifests}
        again = {name for name in names if stage_name in (name, name.split("-")[0])}
        work = shards_to_submit(opened, again | (set(names[first:]) & begun))
        jobs = submit_stages(run, work, recipe.execution.slurm, False) if work else []
    return Submission(run, jobs)


def shards_to_submit(opened: OpenRun, chosen: set[str]) -> list[tuple[Stage, list[int]]]:
    """For each chosen stage the shards that are not done, or that read one that is about to be done again.

    The latter may turn out unchanged: their task then finds the shard done and ends. Raises DataError where an input is
    neither done nor among them.
    """
    finished = {(state.stage.name, shard) for state in opened.states for shard in state.shards(DONE)}
    redone: set[ShardRef] = set()
    work = []
    for state in opened.states:
        stage = state.stage
        if stage.name not in chosen:
            continue
        shards = []
        for shard in range(stage.shards):
            done = (stage.name, shard) in finished
            if done and not redone:
                continue
            inputs = stage.inputs(shard)
            if done and redone.isdisjoint(inputs):
                continue
            missing = next((ref for ref in inputs if ref not in finished and ref not in redone), None)
            if missing is not None:
                raise DataError(
                    f"stage {stage.name}: its input {missing[0]} {missing[1]:05d} is not finished; run the stages in order "
                    "(leave out --stage)"
                )
            shards.append(shard)
        redone.update((stage.name, shard) for shard in shards)
        if shards:
            work.append((stage, shards))
    return work
