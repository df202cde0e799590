"""SIGTERM with a grace period: whoever gets it removes what is half written and leaves, and the shard is done again."""

import os
import random
import signal
from unittest.mock import patch

import pytest

import pipeline.run
from pipeline.atomic_files import TEMPORARY_SUFFIX
from pipeline.executors import slurm_task
from pipeline.run import execute
from pipeline.run_folder import RunFolder
from pipeline.stages.order import build_stages
from tests.end_to_end.runs import results
from tests.faults import injection
from tests.faults.campaign import Campaign
from tests.faults.injection import COMMIT, Fault
from tests.faults.small_run import Watcher

SHARD = 1


def half_written(run):
    return sorted(path.name for path in run.root.rglob(f"*{TEMPORARY_SUFFIX}"))


def before_the_first_name(reference, stage, mark):
    """In the commit, shortly before the first file is renamed: from there it takes 8 steps to the end of `publish_file`."""
    _, _, published = reference.steps[stage, SHARD]
    return Fault("terminate", SHARD, COMMIT, published - 10, mark)


def test_a_worker_cleans_up_and_leaves(without_writer, tmp_path):
    recipe, run, seen = without_writer.recipe, RunFolder(tmp_path / "run"), tmp_path / "seen"
    campaign = Campaign(recipe, run, without_writer, random.Random(0), tmp_path)

    def strike(kind):
        seen.write_text("\n".join(half_written(run)))
        os.kill(os.getpid(), signal.SIGTERM)

    for stage in ("ingest", "documents", "score-fasttext", "tag"):
        fault = before_the_first_name(without_writer, stage, tmp_path / f"{stage}-mark")
        with patch.object(injection, "strike", strike):
            campaign._run_with(fault, stage)
        assert fault.mark.exists() and f"{SHARD:05d}" in seen.read_text(), "there was something to clean up"
        assert half_written(run) == []
        assert "exit code 143" in run.failure(stage, SHARD).read_text()
        assert sorted(path.name for path in run.manifest(stage, 0).parent.glob("?????.json")) == [
            f"{shard:05d}.json" for shard in range(4) if shard != SHARD
        ]
        campaign.check()
    campaign.finish()


@pytest.fixture
def interruptible():
    """SIGINT raises KeyboardInterrupt also where the tests were started in the background, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_shards_of_a_run_that_is_interrupted_have_not_failed(without_writer, tmp_path):
    run = RunFolder(tmp_path / "run")
    campaign = Campaign(without_writer.recipe, run, without_writer, random.Random(0), tmp_path)

    def strike(kind):
        os.kill(os.getppid(), signal.SIGINT)
        signal.pause()

    with patch.object(injection, "strike", strike), pytest.raises(KeyboardInterrupt):
        campaign._run_with(before_the_first_name(without_writer, "ingest", tmp_path / "mark"), "ingest")
    assert half_written(run) == [] and list(run.root.glob("manifests/*/*.failed.json")) == []


def run_slurm_task(run, stage):
    """The exit code of the task of this stage's shard, with what Slurm gives it, in a process of its own."""
    task = os.fork()
    if task == 0:
        code = 1
        try:
            os.environ.update(SAFETROVE_FIRST_SHARD="0", SLURM_ARRAY_TASK_ID=str(SHARD))
            code = slurm_task.main([str(run.root), stage])
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(task, 0)[1])


@pytest.mark.parametrize("to_all", [False, True], ids=["task", "task and child"])
def test_a_slurm_task_cleans_up_and_is_no_failure(without_writer, tmp_path, to_all, capfd):
    """Slurm sends SIGTERM to the batch shell alone or to every process of the step, as the cluster is set up."""
    recipe, run, seen = without_writer.recipe, RunFolder(tmp_path / "run"), tmp_path / "seen"
    execute(recipe, run.root, Watcher(), ["ingest", "dedup"])
    fault = before_the_first_name(without_writer, "documents", tmp_path / "mark")

    def armed(*arguments):
        stages = build_stages(*arguments)
        injection.arm(next(stage for stage in stages if stage.name == "documents"), fault)
        return stages

    def strike(kind):
        seen.write_text("\n".join(half_written(run)))
        os.kill(os.getppid(), signal.SIGTERM)
        if to_all:
            os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    with patch.object(pipeline.run, "build_stages", armed), patch.object(injection, "strike", strike):
        assert run_slurm_task(run, "documents") == 143
    assert "stopped by SIGTERM" in capfd.readouterr().out
    assert f"{SHARD:05d}" in seen.read_text() and half_written(run) == []
    assert not run.failure("documents", SHARD).exists() and not run.manifest("documents", SHARD).exists()
    assert run_slurm_task(run, "documents") == 0
    name = f"documents/{SHARD:05d}.parquet"
    assert results(run.root)[name] == results(without_writer.run.root)[name]
