"""Byte-identical results whatever the workers, and after `kill -9` in the middle of any stage."""

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.runs import kill_in_stage, results, safetrove, write_recipe, write_sources

STAGES = (
    "ingest", "dedup-find", "documents", "score-fasttext", "score-embedding", "score-final", "tag", "tokenizer",
    "tokenise-safe", "tokenise-tagged", "blend", "card-counts", "report",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe, run folder of a whole run with one worker)."""
    folder = tmp_path_factory.mktemp("same")
    recipe = write_recipe(folder / "recipe.yaml", write_sources(folder / "in", 7))
    safetrove("run", recipe, "--output", folder / "one", "--set", "execution.workers=1")
    return recipe, folder / "one"


@pytest.mark.parametrize("workers", [2, 7])
def test_workers_do_not_change_a_byte(undisturbed, tmp_path, workers):
    recipe, one = undisturbed
    safetrove("run", recipe, "--output", tmp_path / "run", "--set", f"execution.workers={workers}")
    assert results(tmp_path / "run") == results(one)


@pytest.mark.parametrize("stage", STAGES)
def test_kill_in_the_middle_of_a_stage(undisturbed, tmp_path, stage):
    recipe, one = undisturbed
    run = tmp_path / "run"
    shutil.copytree(one, run, copy_function=shutil.copy2)
    later = STAGES[STAGES.index(stage) :]
    for name in later:  # as if the run had come only to the beginning of this stage
        shutil.rmtree(run / "manifests" / name)
        shutil.rmtree(run / "logs" / name)
    kill_in_stage(run, stage, "run", recipe, "--output", run, "--stage", stage)
    shards = len(list((one / "manifests" / stage).glob("*.json")))
    if shards > 1:  # killed before the stage was finished; a stage of one shard may have ended in the same moment
        assert len(list((run / "manifests" / stage).glob("*.json"))) < shards
    safetrove("run", recipe, "--output", run)
    assert results(run) == results(one)
    assert not list(run.rglob("*.partial"))


def test_a_finished_run_has_nothing_left_to_do(undisturbed):
    recipe, one = undisturbed
    before = results(one)
    assert "nothing was left to do" in safetrove("run", recipe, "--output", one).stdout
    assert results(one) == before
