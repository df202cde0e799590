"""`safetrove verify`: the texts under synthetic/ scored anew, whatever the stage that let them through had found."""

import pytest
from typer.testing import CliRunner

from classifiers.errors import DataError
from pipeline.dataset_export.card import making_text
from pipeline.dataset_export.export import Counts
from pipeline.gate_check import check_gates
from pipeline.run_folder import RunFolder
from pipeline.stages.synthesis import synthetic_table
from pipeline.stages.verification import verifying_classifiers
from pipeline.stages.verify import SYNTHETIC_SCHEMA
from safetrove.cli import app
from tests.pipeline.stage_runs import small_recipe, write_table
from tests.pipeline.test_dataset_export import TURNS, make_run, row

CALM = "Two neighbours share a fence. On Sundays they water the roses together and talk about the weather."
RUDE = "Those idiots should be beaten up, I will kill every one of them, and nobody will miss those morons."


def stored(run, kind, rows, shard=0):
    write_table(synthetic_table(run, kind, shard), rows, SYNTHETIC_SCHEMA)


def dialogue(*texts):
    turns = [{"role": role, "text": text} for role, text in zip(["user", "assistant"] * 2, texts, strict=False)]
    return {"turns": turns, "text": "\n".join(f"Mia: {text}" for text in texts)}


@pytest.mark.parametrize(("classifiers", "verifying"), [
    (["fasttext"], ["fasttext"]), (["fasttext", "judge"], ["fasttext", "embedding"]),
    (["judge"], ["fasttext", "embedding"]), (["embedding", "judge"], ["embedding"]),
])  # fmt: skip
def test_drafts_are_scored_without_a_server_and_by_no_member_that_misses_most_alone(tmp_path, classifiers, verifying):
    recipe = small_recipe(tmp_path, score={"classifiers": classifiers}, synthesis={})
    assert verifying_classifiers(recipe) == verifying
    assert f"by the classifiers ({', '.join(verifying)})" in making_text(recipe, Counts())


def test_a_text_that_its_gate_should_have_stopped_is_named_and_ends_with_1(tmp_path):
    run = make_run(tmp_path, [1])
    stored(run, "rephrased", [row("rephrased", "calm", text=CALM), row("rephrased", "rude", text=RUDE, score_after=0)])
    stored(
        run, "refusal", [row("refusal", "fine", **dialogue(CALM, CALM)), row("refusal", "rude", **dialogue(CALM, RUDE))]
    )
    stored(run, "moral", [row("moral", "calm", text=CALM)])
    found = {result.kind: [text_id for _, text_id in result.failing] for result in check_gates(run)}
    assert found == {"rephrased": ["rephrased-rude"], "refusal": ["refusal-rude"], "moral": []}
    result = CliRunner().invoke(app, ["verify", str(run.root)])
    assert result.exit_code == 1 and "rephrased: 2 texts in 1 shards, 1 fail their gate" in result.output
    assert "00000.parquet: rephrased-rude" in result.output and "morons" not in result.output


def test_the_command_that_is_named_does_the_failing_shards_again(tmp_path, monkeypatch):
    run = make_run(tmp_path, [1, 1, 1])
    for kind in ("rephrased", "refusal", "moral"):
        for shard in range(3):
            stored(run, kind, [], shard)
    for shard in (0, 2):
        stored(run, "rephrased", [row("rephrased", name, text=RUDE) for name in ("one", "two")], shard)
    result = CliRunner().invoke(app, ["verify", str(run.root)])
    [line] = [line for line in result.output.splitlines() if "safetrove rerun" in line]
    command = f"safetrove rerun {run.root} --stage verify-rephrased --rank 0,2"
    assert result.exit_code == 1 and line == f"do it again with: {command}"
    asked = []
    monkeypatch.setattr("safetrove.running.rerun_stage", lambda *given: asked.append(given) or 0)
    assert CliRunner().invoke(app, command.split()[1:]).exit_code == 0
    assert [(stage, shards) for _, stage, shards, _ in asked] == [("verify-rephrased", [0, 2])]


@pytest.mark.parametrize(
    "changes",
    [
        dialogue(CALM, CALM, CALM),  # the user last
        {"turns": [], "text": CALM},
        {"turns": TURNS, "text": CALM},  # other turns than the text's
    ],
)
def test_a_dialogue_whose_turns_are_not_those_of_its_text_fails(tmp_path, changes):
    run = make_run(tmp_path, [0])
    stored(run, "refusal", [row("refusal", "odd", **changes)])
    [result] = [result for result in check_gates(run) if result.kind == "refusal"]
    assert [text_id for _, text_id in result.failing] == ["refusal-odd"]


def test_no_text_at_all_passes(tmp_path):
    run = make_run(tmp_path, [0, 0])
    assert [(result.texts, result.failing) for result in check_gates(run)] == [(0, [])] * 3
    result = CliRunner().invoke(app, ["verify", str(run.root)])
    assert result.exit_code == 0 and "moral: 0 texts in 2 shards, 0 fail their gate" in result.output


def test_what_was_never_verified_is_an_error(tmp_path):
    run = make_run(tmp_path, [])
    with pytest.raises(DataError, match="no shard of verify-rephrased is finished"):
        check_gates(RunFolder(run.root))
