"""Who only looks at a run (`status`, `publish`) asks for nothing outside of it, and is disturbed by no one; who runs does."""

import shutil

import pytest

from classifiers.errors import ModelError
from pipeline.run import execute
from pipeline.run_folder import STAGE_FOLDERS, RunFolder
from tests.faults.small_run import Watcher, run_again


@pytest.fixture
def run(without_writer, tmp_path):
    shutil.copytree(without_writer.run.root, tmp_path / "run", copy_function=shutil.copy2)
    return RunFolder(tmp_path / "run")


def test_missing_weights_are_told_before_the_first_stage(without_writer, tmp_path):
    score = without_writer.recipe.score
    absent = score.fasttext.model_copy(update={"weights": str(tmp_path / "absent")})
    changes = {"score": score.model_copy(update={"fasttext": absent})}
    watcher = Watcher()
    with pytest.raises(ModelError, match=r"absent/level\.ftz: the weights are missing"):
        execute(without_writer.recipe.model_copy(update=changes), tmp_path / "run", watcher)
    assert watcher.started == []


def test_only_what_stages_leave_is_removed(run, without_writer):
    ours = [run.root / name for name in ("documents/00009.parquet.partial", "tokens/tokenizer.partial/file")]
    theirs = ("report/card.json.partial", "datasets/moral.partial/data/train.parquet", "publish/files/a.partial")
    others = [run.root / name for name in theirs]
    for path in ours + others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    result, _ = run_again(without_writer.recipe, run)
    assert not result.failed and all(path.is_file() for path in others)
    assert not ours[0].exists() and not ours[1].parent.exists()


def test_stages_write_in_the_folders_of_stages(without_writer, with_writer):
    report = {"report"}  # written as `safetrove card` writes it, which replaces what it left
    for whole in (without_writer.run, with_writer.run):
        found = {path.relative_to(whole.root).parts[0] for path in whole.root.glob("*/**/*") if path.is_file()}
        assert found <= set(STAGE_FOLDERS) | report
