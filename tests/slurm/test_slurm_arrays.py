"""Arrays on a real Slurm: what fails, what stops, what is done again, and that the bytes are those of a local run."""

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.executors.slurm_jobs import read_jobs
from pipeline.run_folder import RunFolder
from tests.end_to_end.runs import results, safetrove, write_recipe
from tests.slurm.slurm_runs import STAGES, manifests, queued, status, wait_for_jobs, write_shards

SHARDS = int(os.environ.get("SAFETROVE_SLURM_SHARDS", 64))  # fewer, for a first look
ARRAY_SIZE = SHARDS * 5 // 8
KILLED, VANISHED, HANGING = 3, SHARDS // 3, SHARDS - 2
# Shell lines before each task of the stage score-fasttext: three shards end badly until the file `mended` is there.
FAULTS = f"""
if [ ! -e %s ]; then case $((SAFETROVE_FIRST_SHARD + SLURM_ARRAY_TASK_ID)) in
{KILLED}) (until kill -9 $(pgrep -P $$ -x python) 2>/dev/null; do :; done) & ;;
{VANISHED}) kill -9 $$ ;;
{HANGING}) sleep 3600 ;;
esac; fi
"""
FASTTEXT = {"score": {"classifiers": ["fasttext"]}}


@pytest.mark.slow
@pytest.mark.timeout(1500)  # eight minutes of two quiet cores
def test_three_failures_then_one_rerun_gives_the_bytes_of_a_local_run(tmp_path):
    mended = tmp_path / "mended"
    slurm = {
        "mem_per_cpu_gb": 1,
        "array_size": ARRAY_SIZE,
        "stages": {"score-fasttext": {"time": "1", "environment": FAULTS % mended}},
    }
    texts = write_shards(tmp_path / "in", SHARDS)
    recipe = write_recipe(tmp_path / "recipe.yaml", texts, execution={"workers": 2, "slurm": slurm}, **FASTTEXT)
    local, run = tmp_path / "local", tmp_path / "run"

    submitted = safetrove("run", recipe, "--output", run, "--executor", "slurm", *STAGES).stdout
    assert f"ingest: job {read_jobs(RunFolder(run))[0].job}, {ARRAY_SIZE} tasks" in submitted
    refused = safetrove("run", recipe, "--output", run, *STAGES, expect=1).stderr  # a local run beside the jobs
    assert "still in Slurm's queue" in refused and "scancel" in refused
    wait_for_jobs(run)

    assert queued() == []  # nothing waits for ever behind the failures
    failed = sorted([KILLED, VANISHED, HANGING])
    stages = status(run, expect=1)
    assert stages["documents"]["shards"]["done"] == SHARDS
    assert stages["score-fasttext"]["shards"]["done"] == SHARDS - len(failed)
    assert stages["score-final"]["shards"] == {"done": 0, "stale": 0, "pending": SHARDS, "failed": 0}
    assert stages["score-final"]["slurm"] == {"cancelled": SHARDS}
    words = stages["score-fasttext"]["failures"]
    assert set(words) == {str(shard) for shard in failed}
    assert "killed by SIGKILL" in words[str(KILLED)] and "mem_per_cpu_gb" in words[str(KILLED)]
    assert words[str(VANISHED)] == "Slurm: failed" and words[str(HANGING)] == "Slurm: timed out"
    shown = safetrove("status", run, expect=1).stdout
    assert f"safetrove rerun {run} --stage score-fasttext --failed" in shown

    mended.touch()
    before = len(read_jobs(RunFolder(run)))
    safetrove("rerun", run, "--stage", "score-fasttext", "--failed")
    again = [job for job in read_jobs(RunFolder(run))[before:] if job.stage == "score-fasttext"]
    assert sorted(shard for job in again for shard in job.shards) == failed
    wait_for_jobs(run)
    safetrove("run", recipe, "--output", local, *STAGES)
    assert results(run) == {**results(local), **slurm_scripts(run)}
    assert manifests(run) == manifests(local)
    assert not list(run.rglob("*.partial"))
    assert [path.name for path in run.rglob("*.lock")] == [".lock"]


def slurm_scripts(run: Path) -> dict[str, str]:
    """What is only in a run of Slurm's: the scripts and the record of jobs."""
    return {name: digest for name, digest in results(run).items() if name.startswith("slurm/")}


@pytest.mark.slow
def test_preempted_tasks_leave_nothing_and_run_again(tmp_path):
    texts = write_shards(tmp_path / "in", 1)
    content = (texts / "part-000.jsonl").read_text()
    more = "".join(
        content.replace('"id": "', f'"id": "{copy}-').replace('"text": "', f'"text": "{copy} ') for copy in range(40)
    )
    (texts / "part-000.jsonl").write_text(more)
    recipe = write_recipe(tmp_path / "recipe.yaml", texts, execution={"slurm": {"mem_per_cpu_gb": 1}}, **FASTTEXT)
    run = tmp_path / "run"
    safetrove("run", recipe, "--output", run, "--executor", "slurm", "--stage", "ingest")
    while not list(run.rglob("*.partial")):
        os.sched_yield()
    subprocess.run(["srun", "--quiet", "--partition=urgent", "--exclusive", "true"], check=True, timeout=120)
    assert not list(run.rglob("*.partial"))
    assert status(run, expect=1)["ingest"]["slurm"] == {"queued": 1}
    assert not RunFolder(run).failure("ingest", 0).exists()
    wait_for_jobs(run)
    assert "stopped by SIGTERM" in next(run.glob("logs/ingest/slurm/*.out")).read_text()
    assert status(run, expect=1)["ingest"]["shards"]["done"] == 1


def test_a_job_that_slurm_refuses_leaves_nothing_in_the_queue(tmp_path):
    slurm = {"mem_per_cpu_gb": 1, "stages": {"score-final": {"partition": "nowhere"}}}
    recipe = write_recipe(tmp_path / "recipe.yaml", write_shards(tmp_path / "in", 2), execution={"slurm": slurm})
    refused = safetrove("run", recipe, "--output", tmp_path / "run", "--executor", "slurm", expect=2)
    assert "stage score-final: Slurm refuses the job" in refused.stderr and "partition" in refused.stderr
    assert read_jobs(RunFolder(tmp_path / "run")) == []
    assert queued() == []
