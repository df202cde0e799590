"""The parts of the Slurm executor that need no Slurm: resources, index lists, Slurm's words, the lock of a shard."""

import multiprocessing

import pytest

from classifiers.errors import DataError, RecipeError
from pipeline.executors.settings import Slurm
from pipeline.executors.shard_lock import shard_lock
from pipeline.executors.slurm import StageScript
from pipeline.executors.slurm_jobs import compact_indices, parse_indices, parse_sacct, parse_squeue
from pipeline.ingest.input_files import list_input_files
from pipeline.recipe import dump_recipe, parse_recipe
from pipeline.run import execute
from pipeline.run_folder import RunFolder
from pipeline.stages.order import build_stages
from pipeline.submit import submit_run
from tests.pipeline.stage_runs import small_recipe

RESOURCES = {
    "partition": "cpu",
    "account": "safety",
    "sbatch_args": {"constraint": "milan"},
    "stages": {
        "score": {"mem_per_cpu_gb": 8, "sbatch_args": {"exclusive": None}},
        "score-embedding": {"partition": "gpu", "gpus": 1, "time": "1-00:00:00", "environment": "module load cuda"},
    },
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"text": "one"}\n')
    return tmp_path


def recipe_with(folder, **slurm):
    return small_recipe(folder, execution={"executor": "slurm", "slurm": slurm})


def test_a_stage_takes_its_own_resources_before_its_groups_before_the_general_ones():
    slurm = Slurm(**RESOURCES)
    embedding = slurm.of_stage("score-embedding")
    assert (embedding.partition, embedding.gpus, embedding.mem_per_cpu_gb, embedding.account) == ("gpu", 1, 8, "safety")
    assert embedding.sbatch_args == {"constraint": "milan", "exclusive": None}
    fasttext = slurm.of_stage("score-fasttext")
    assert (fasttext.partition, fasttext.gpus, fasttext.time, fasttext.environment) == ("cpu", 0, "24:00:00", None)
    assert slurm.of_stage("ingest").mem_per_cpu_gb == 4


def test_resources_survive_the_freezing_of_the_recipe(folder):
    import yaml

    recipe = recipe_with(folder, **RESOURCES)
    frozen = parse_recipe(yaml.safe_load(dump_recipe(recipe)), "frozen", folder)
    for stage in ("ingest", "score-embedding", "score-final"):
        assert frozen.execution.slurm.of_stage(stage) == recipe.execution.slurm.of_stage(stage)


@pytest.mark.parametrize(
    ("slurm", "words"),
    [
        ({"partitoin": "gpu"}, "execution.slurm.partitoin: Extra inputs"),
        ({"stages": {"ingest": {"gpu": 1}}}, "execution.slurm.stages.ingest.gpu: Extra inputs"),
        ({"time": 86400}, 'put the time in quotes, as in time: "24:00:00"'),
        ({"time": "tomorrow"}, "execution.slurm.time: String should match"),
        ({"sbatch_args": {"array": "0-5"}}, "array: safetrove sets it itself"),
        ({"sbatch_args": {"wait": None}}, "wait: safetrove sets it itself"),
        ({"sbatch_args": {"--constraint": "h100"}}, "give the long name without dashes"),
        ({"time": None}, "slurm.time: give a limit"),
    ],
)
def test_wrong_resources_are_named(folder, slurm, words):
    with pytest.raises(RecipeError) as error:
        recipe_with(folder, **slurm)
    assert words in str(error.value)


def test_resources_for_a_stage_that_does_not_exist_are_refused_before_anything_runs(folder):
    recipe = small_recipe(folder, execution={"slurm": {"stages": {"score-fastext": {"gpus": 1}}}})
    with pytest.raises(
        RecipeError, match="the stage score-fastext, which this recipe does not have; it has tokenizer, ingest, "
    ):
        execute(recipe, folder / "run", None)
    assert not (folder / "run" / "recipe.yaml").exists()


def test_the_script_holds_the_stages_resources_and_no_pickle(folder):
    recipe = recipe_with(folder, **RESOURCES)
    stages = build_stages(recipe, RunFolder(folder / "a run"), list_input_files(recipe))
    stage = next(stage for stage in stages if stage.name == "score-embedding")
    script = StageScript(stage, recipe.execution.slurm.of_stage(stage.name)).text(force_stale=False)
    lines = script.splitlines()
    for option in (
        "partition=gpu", "account=safety", "gpus=1", "mem-per-cpu=8G", "time=1-00:00:00", "constraint=milan", "exclusive",
        "requeue", "kill-on-invalid-dep=yes", "job-name=safetrove-score-embedding",
    ):  # fmt: skip
        assert f"#SBATCH --{option}" in lines
    assert "module load cuda" in script and "exec " in script and f"'{folder}/a run' score-embedding" in script
    assert "None" not in script and "pickle" not in script and "--array" not in script


def test_without_sbatch_the_error_says_where_to_submit(folder, monkeypatch):
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(Exception, match="there is no sbatch on this machine: submit on a login node") as error:
        submit_run(recipe_with(folder), folder / "run", None, False)
    assert type(error.value).__name__ == "DependencyError"


def test_a_run_whose_jobs_cannot_be_asked_after_is_refused(folder, monkeypatch):
    from pipeline.executors.slurm_jobs import SlurmJob, write_jobs

    run = RunFolder(folder / "run")
    recipe = small_recipe(folder)
    (folder / "run").mkdir()
    run.recipe.write_text(dump_recipe(recipe))
    write_jobs(run, [SlurmJob("12", "ingest", 0, "0")])
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(DataError, match=r"there is no squeue on this machine.*remove .*jobs\.json and run again"):
        execute(recipe, run.root, None)


@pytest.mark.parametrize("indices", [[0], [0, 1, 2], [0, 2, 3, 4, 9], list(range(1001))])
def test_index_lists_come_back(indices):
    assert parse_indices(compact_indices(indices) + "%8") == indices


@pytest.mark.parametrize(
    ("words", "indices"),
    [("0-20:2", list(range(0, 21, 2))), ("5,9-11", [5, 9, 10, 11]), ("3-33:10%2", [3, 13, 23, 33])],
)
def test_slurms_own_index_lists(words, indices):
    """sacct writes every second shard of a rerun as a step."""
    assert parse_indices(words) == indices
    assert [key for key, state in parse_sacct(f"12_[{words}]|PENDING\n").items() if state.unfinished] == [
        ("12", index) for index in indices
    ]


def test_slurms_words():
    queue = parse_squeue(
        "12|0|RUNNING|None\n12|1|PENDING|JobArrayTaskLimit\n12|2|PENDING|PartitionTimeLimit\n12|3|TIMEOUT|TimeLimit\n"
        "12|4|PENDING|ReqNodeNotAvail, UnavailableNodes:n1\n13|N/A|RUNNING|None\n"
    )
    assert [queue["12", i].word for i in range(4)] == ["running", "queued", "queued", "timed out"]
    assert [queue["12", i].reason for i in range(5)] == ["", "", "PartitionTimeLimit", "", ""]
    assert [queue["12", i].unfinished for i in range(5)] == [True, True, True, False, True] and len(queue) == 5
    accounts = parse_sacct("12_0|OUT_OF_MEMORY\n12_[4-5,7]|PENDING\n12_8|CANCELLED by 1000\n14|RUNNING\n")
    assert {key[1]: state.word for key, state in accounts.items()} == {
        0: "out of memory", 4: "queued", 5: "queued", 7: "queued", 8: "cancelled",
    }  # fmt: skip


def _hold(run, pipe):
    with shard_lock(run, "tag", 3):
        pipe.send("held")
        pipe.recv()


def test_a_second_task_on_the_same_shard_is_refused_until_the_first_is_gone(tmp_path):
    run = RunFolder(tmp_path)
    ours, theirs = multiprocessing.Pipe()
    holder = multiprocessing.get_context("spawn").Process(target=_hold, args=(run, theirs))
    holder.start()
    assert ours.recv() == "held"
    with pytest.raises(DataError, match="stage tag, shard 3: another task is working on it"), shard_lock(run, "tag", 3):
        pass
    with shard_lock(run, "tag", 4):
        pass
    holder.kill()  # its lock file stays, its lock does not
    holder.join()
    with shard_lock(run, "tag", 3):
        pass
    assert not list(tmp_path.rglob("*.lock"))
