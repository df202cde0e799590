"""Who only looks at a run (`status`, `publish`) asks for nothing outside of it, and is disturbed by no one; who runs does."""

import json
import shutil

import pytest

from classifiers.errors import DataError, IdentityError, ModelError, RecipeError
from classifiers.identity import ready_identity
from pipeline.manifest import Manifest
from pipeline.publishing.refusals import run_refusals
from pipeline.recipe import Suite
from pipeline.run import execute, load_run_stages, rerun_shards, run_states
from pipeline.run_folder import STAGE_FOLDERS, RunFolder
from pipeline.shard_state import DONE, FAILED, PENDING, stage_states
from pipeline.shard_task import write_failure
from pipeline.tokens.corpus_tokenizer import tokenizer_revision
from pipeline.verify_outputs import damaged_outputs
from safetrove.status import summary
from tests.faults.small_run import Watcher, run_again


@pytest.fixture
def run(without_writer, tmp_path):
    shutil.copytree(without_writer.run.root, tmp_path / "run", copy_function=shutil.copy2)
    return RunFolder(tmp_path / "run")


def card(run):
    return json.loads((run.root / "report" / "card.json").read_text())


def unfinished(run):
    return [(state.stage.name, state.states) for state in run_states(run) if set(state.states) != {DONE}]


def test_raw_inputs_that_are_archived_are_asked_for_by_a_run_alone(run, without_writer):
    files = json.loads((run.root / "inputs.json").read_text())
    (run.root / "inputs.json").write_text(json.dumps([{**file, "uri": f"/gone{file['uri']}"} for file in files]))
    assert unfinished(run) == [] and run_refusals(run) == []
    with pytest.raises(IdentityError, match=r"raw_inputs.*a\.jsonl\.gz: '[0-9a-f]+' -> None"):
        stage_states(run, load_run_stages(run))
    with pytest.raises(DataError, match="the input files are not those of the first run"):
        execute(without_writer.recipe, run.root, Watcher())


def test_weights_that_are_gone_are_asked_for_by_a_run_alone(run, without_writer, monkeypatch):
    def gone(folder):
        raise ModelError("level.ftz: the weights are missing")

    monkeypatch.setattr("pipeline.stages.score.fasttext_identity", gone)
    assert unfinished(run) == [] and run_refusals(run) == []
    with pytest.raises(ModelError, match="the weights are missing"):
        execute(without_writer.recipe, run.root, Watcher())


def test_a_folder_of_weights_that_is_gone_is_no_other_model():
    with pytest.raises(ModelError, match=r"tokenise\.tokenizer: /no/such: no such folder; put it back"):
        tokenizer_revision("/no/such")
    with pytest.raises(ModelError, match="/no/such: the weights are missing"):
        ready_identity("/no/such")


def test_missing_weights_are_told_before_the_first_stage(without_writer, tmp_path):
    score = without_writer.recipe.score
    absent = score.fasttext.model_copy(update={"weights": str(tmp_path / "absent")})
    changes = {"score": score.model_copy(update={"fasttext": absent})}
    watcher = Watcher()
    with pytest.raises(ModelError, match=r"absent/level\.ftz: the weights are missing"):
        execute(without_writer.recipe.model_copy(update=changes), tmp_path / "run", watcher)
    assert watcher.started == []


def test_a_forced_run_is_shown_and_not_published_and_not_run_on(run, without_writer):
    recipe = without_writer.recipe
    other = recipe.model_copy(update={"tag": recipe.tag.model_copy(update={"rate": 0.5})})
    assert not card(run)["stale"]
    watcher = Watcher()
    assert not execute(other, run.root, watcher, force_stale=True).failed
    assert watcher.started == [("report", [0])] and card(run)["stale"]
    assert "Stale: tag kept results made from older inputs" in card(run)["warnings"][0]
    states = run_states(run)
    assert unfinished(run) == []
    assert [stage["stage"] for stage in summary(run, states)["stages"] if stage["forced_stale"]] == ["tag"]
    [refusal] = run_refusals(run)
    assert "stage tag: shard 0, 1, 2, 3 was kept over stale inputs (--force-stale)" in refusal
    with pytest.raises(IdentityError, match=r"settings\.rate: 0\.05 -> 0\.5"):
        execute(other, run.root, Watcher())


def test_shards_that_were_kept_by_force_are_done_again_one_by_one(run, without_writer):
    recipe = without_writer.recipe
    other = recipe.model_copy(update={"tag": recipe.tag.model_copy(update={"rate": 0.5})})
    execute(other, run.root, Watcher(), force_stale=True)
    for shards in ([0], [1, 2, 3]):
        watcher = Watcher()
        assert not rerun_shards(run, "tag", shards, watcher).failed
        assert watcher.started == [("tag", shards)]
        forced = [shard for shard in range(4) if Manifest.read(run.manifest("tag", shard)).forced_stale]
        assert forced == [shard for shard in (1, 2, 3) if shards == [0]]
    assert not execute(other, run.root, Watcher()).failed
    assert run_refusals(run) == [] and not card(run)["stale"]


def test_shards_kept_over_other_inputs_within_the_run_say_so(run, without_writer):
    path = run.manifest("tag", 1)
    manifest = Manifest.read(path)
    name = next(iter(manifest.identity["inputs"]))
    manifest.identity["inputs"][name] = "0" * 64  # as if what it was made of had been done again since
    manifest.write(path)
    assert "tag" in [name for name, _ in unfinished(run)]
    watcher = Watcher()
    assert not execute(without_writer.recipe, run.root, watcher, force_stale=True).failed
    assert watcher.started == [("report", [0])] and card(run)["stale"]
    assert unfinished(run) == [] and Manifest.read(path).forced_stale
    assert any("stage tag: shard 1 was kept over stale inputs" in refusal for refusal in run_refusals(run))
    result, watcher = run_again(without_writer.recipe, run)
    assert not result.failed and ("tag", [1]) in watcher.started
    assert not Manifest.read(path).forced_stale and run_refusals(run) == [] and not card(run)["stale"]


def test_the_card_follows_a_ledger_whose_tables_stay_as_they_are(run, without_writer):
    path = run.manifest("ingest", 0)
    manifest = Manifest.read(path)
    assert card(run)["ledger"][0]["dropped"] == {}
    manifest.rows.rows_in += 1
    manifest.rows.dropped["too_short"] = 1  # as after a rerun that reads one line more, and drops it
    manifest.write(path)
    result, watcher = run_again(without_writer.recipe, run)
    assert not result.failed and watcher.started == [("report", [0])]
    assert card(run)["ledger"][0]["dropped"] == {"too_short": 1}
    assert run_again(without_writer.recipe, run)[1].started == []


def test_suites_that_are_gone_are_asked_for_by_a_run_alone(without_writer, tmp_path):
    suite = Suite(name="own", path=str(tmp_path / "suite.json"))
    (tmp_path / "suite.json").write_text(json.dumps([{"prompt": "eight words that stand in none of the texts here"}]))
    recipe = without_writer.recipe
    recipe = recipe.model_copy(update={"ingest": recipe.ingest.model_copy(update={"decontaminate": [suite]})})
    run = RunFolder(tmp_path / "run")
    assert not execute(recipe, run.root, Watcher(), ["ingest"]).failed
    (tmp_path / "suite.json").unlink()
    assert "ingest" not in [name for name, _ in unfinished(run)]
    with pytest.raises(RecipeError, match=r"suite own: .*suite\.json: no such file; put it back"):
        execute(recipe, run.root, Watcher())


def test_who_looks_forces_nothing(run):
    path = run.manifest("tag", 1)
    manifest = Manifest.read(path)
    manifest.identity["settings"]["rate"] = 0.9
    manifest.write(path)
    before = path.read_bytes()
    with pytest.raises(IdentityError, match=r"tag 00001\n    settings\.rate: 0\.9 -> 0\.05"):
        run_states(run)
    run_states(run, force_stale=True)
    assert path.read_bytes() == before


def test_shards_that_are_begun_anew_while_somebody_looks(run, monkeypatch):
    write_failure(run, "tag", 2, RuntimeError("gone by then"))
    run.manifest("tag", 2).unlink()
    look = RunFolder.finished_and_failed

    def and_then_they_go(self, stage):
        seen = look(self, stage)
        if stage == "tag":
            run.manifest("tag", 1).unlink()
            run.failure("tag", 2).unlink()
        return seen

    monkeypatch.setattr(RunFolder, "finished_and_failed", and_then_they_go)
    states = run_states(run)
    [tag] = [state for state in states if state.stage.name == "tag"]
    assert tag.states == [DONE, PENDING, FAILED, DONE]
    shown = {stage["stage"]: stage for stage in summary(run, states)["stages"]}
    assert shown["tag"]["failures"] == {}


def test_manifests_that_go_while_outputs_are_hashed(run, monkeypatch):
    read = Manifest.read

    def first_gone(path):
        run.manifest("tag", 1).unlink(missing_ok=True)
        return read(path)

    monkeypatch.setattr(Manifest, "read", first_gone)
    assert damaged_outputs(run) == []


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
