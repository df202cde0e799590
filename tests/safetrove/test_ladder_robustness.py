"""`safetrove evaluate robustness`: one command that evaluates, tunes, evaluates and compares."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from classifiers.errors import RecipeError
from safetrove.cli import app
from safetrove.robustness import BENIGN_TUNING, run_robustness
from tests.evaluation.tiny_model import save_tiny_model


def test_one_command_before_and_after_benign_tuning(tmp_path):
    (tmp_path / "evaluation.yaml").write_text(
        yaml.safe_dump({
            "suites": ["own"], "limit": 4, "judges": ["refusal_strings"],
            "generation": {"max_new_tokens": 4, "dtype": "float32", "threads": 1},
        })
    )  # fmt: skip
    model = save_tiny_model(tmp_path / "model")
    tuning = ["data.0.rows=8", "evaluation_rows=2", "max_steps=4", "lr=0.1", "lora=null", "threads=1", "batch_size=4"]
    command = ["evaluate", "robustness", str(tmp_path / "evaluation.yaml"), "--output", str(tmp_path / "out")]
    command += ["--set", f"model={model}", "--set", "name=tiny"]
    command += [part for item in tuning for part in ("--set-tuning", item)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    compared = json.loads((tmp_path / "out/comparison/comparison.json").read_text())
    assert compared["results"] == ["tiny, before", "tiny, after benign tuning"]
    row = next(row for row in compared["rows"] if row["measure"] == "attack_success_rate")
    assert row["tests_against_first"]["tiny, after benign tuning"]["n"] == row["results"]["tiny, before"]["valid"] > 0
    tuned = json.loads((tmp_path / "out/tuned/finetune.json").read_text())
    assert tuned["model"]["name"] == str(model) and tuned["data"]["sources"] == {"arithmetic": 8}
    asked = [
        json.loads((tmp_path / f"out/{when}/evaluation.json").read_text())["recipe"] for when in ("before", "after")
    ]
    assert [recipe.pop("model") for recipe in asked] == [str(model), str(tmp_path / "out/tuned/model")]
    assert [recipe.pop("name") for recipe in asked] == compared["results"] and asked[0] == asked[1]
    # random weights under so high a rate: other weights give other answers
    answers = [(tmp_path / f"out/{when}/items.jsonl").read_text() for when in ("before", "after")]
    assert answers[0] != answers[1]
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0 and "finished already, nothing to do" in again.output


def test_a_server_cannot_be_tuned(tmp_path):
    (tmp_path / "e.yaml").write_text("server: {url: 'http://127.0.0.1:9', model: m}\n")
    with pytest.raises(RecipeError, match="tunes the model itself: leave `server` out"):
        run_robustness(tmp_path / "e.yaml", [], BENIGN_TUNING, [], tmp_path / "out")
