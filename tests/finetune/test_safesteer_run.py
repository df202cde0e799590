"""SafeSteer end to end on a tiny Llama with a planted refusal direction: by command line, errors, accumulation, copies."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from classifiers.errors import RecipeError
from finetune.errors import FinetuneDataError, FinetuneRecipeError, ResultFolderError
from finetune.recipe import load_recipe
from finetune.safesteer.prepared_steering import load_steering
from finetune.safesteer.recipe import SafeSteerRecipe
from finetune.safesteer.run import _read_sets, train_safesteer
from safetrove.cli import app
from tests.finetune.planted_llama import REFUSE, save_planted_llama

WORDS = ("north", "river", "paper", "green", "seven", "table", "cloud", "stone", "house", "light", "music", "train")


def prompts(path, first, harmful):
    middle = ", " if harmful else " and "
    rows = [{"prompt": f"{WORDS[(first + n) % 12]}{middle}{WORDS[n % 12]} {first}"} for n in range(6)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safesteer")
    save_planted_llama(folder / "start")
    values = {
        "model": str(folder / "start"),
        "output": str(folder / "result"),
        "prompts": prompts(folder / "train.jsonl", 100, False),
        "direction": {
            "harmful_train": prompts(folder / "a.jsonl", 200, True),
            "harmful_validation": prompts(folder / "b.jsonl", 300, True),
            "harmless_train": prompts(folder / "c.jsonl", 400, False),
            "harmless_validation": prompts(folder / "d.jsonl", 500, False),
            "train_prompts": 6,
            "validation_prompts": 3,
        },
        "tokens": {"horizon": 2, "size": 5, "votes_per_record": 3, "samples": 2, "floor": 1e-6},
        "loss": "generalised", "samples_per_prompt": 4, "batch_size": 8, "micro_batch_size": 4, "max_new_tokens": 4,
        "lora": {"rank": 4, "alpha": 8}, "lr": 0.02, "schedule": "constant_with_warmup", "epochs": 4, "threads": 1,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return folder


def run(place, name, *overrides):
    recipe = load_recipe(place / "recipe.yaml", SafeSteerRecipe, [f"output={place / name}", *overrides])
    return train_safesteer(recipe, lambda _: None)


def test_the_command_finds_the_direction_and_closes_the_gap(place):
    said = CliRunner().invoke(app, ["finetune", "safesteer", str(place / "recipe.yaml")])
    assert said.exit_code == 0, said.output
    result = json.loads((place / "result" / "finetune.json").read_text())
    log = result["log"]
    assert len(log) == 12 and result["data"]["answers"] == 24
    assert sum(e["loss"] for e in log[-3:]) < 0.6 * sum(e["loss"] for e in log[:3])
    assert log[-1]["student_mass"] > log[0]["student_mass"] and log[-1]["teacher_mass"] > 0.9
    assert {"answer_tokens", "refusal_share", "cut_share", "grad_norm"} <= log[0].keys()
    assert 0 < result["metrics"]["relative_movement"] < 1 and result["steering"]["layer"] in (2, 3)
    steering = json.loads((place / "result" / "steering.json").read_text())
    assert steering["tokens"][0]["id"] == REFUSE and steering["tokens"][0]["text"] == "I"
    kept = load_steering(place / "result", steering["inputs_sha256"])
    assert kept is not None and kept.token_ids[0] == REFUSE and load_steering(place / "result", "other") is None
    assert (place / "result" / "model" / "config.json").is_file()
    again = CliRunner().invoke(app, ["finetune", "safesteer", str(place / "recipe.yaml")])
    assert again.exit_code == 0 and "finished already" in again.output


def weights(folder, name="adapter/adapter_model.safetensors"):
    return load_file(str(folder / name))


def test_one_update_of_8_answers_is_two_of_4_added_up(place):
    for name, size in (("once", 8), ("twice", 4)):
        run(place, name, f"micro_batch_size={size}", "max_steps=2", "lr=0.001")
    one, two = weights(place / "once"), weights(place / "twice")
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)
    assert any(bool(value.abs().max() > 0) for key, value in one.items() if "lora_B" in key)


@pytest.mark.parametrize("loss", ["partial", "bucketed", "full"])
def test_full_training_keeps_a_second_copy_and_every_loss_runs(place, loss):
    random_tokens = ["tokens.source=random"] if loss == "bucketed" else []
    result = run(place, f"whole-{loss}", "lora=null", f"loss={loss}", "max_steps=1", "warmup=0", *random_tokens)
    assert 0 < result["metrics"]["relative_movement"] < 1
    start, after = (
        weights(place / "start", "model.safetensors"),
        weights(place / f"whole-{loss}", "model/model.safetensors"),
    )
    assert any(not torch.equal(start[key], after[key]) for key in start)


def test_a_restart_uses_the_direction_that_was_found(place):
    run(place, "restarted", "max_steps=1")
    (place / "restarted" / "finetune.json").unlink()
    said = []
    recipe = load_recipe(place / "recipe.yaml", SafeSteerRecipe, [f"output={place / 'restarted'}", "max_steps=1"])
    train_safesteer(recipe, said.append)
    assert any("used again" in line for line in said) and not any("candidates" in line for line in said)


def test_held_out_prompts_are_dropped_before_the_draw_and_counted(place, tmp_path):
    """The published direction data hold prompts of AdvBench: such are left out, others take their places."""
    harmful = [f"{a}, {b} 700" for a in WORDS[:3] for b in WORDS[:3]]
    rows = [{"instruction": text} for text in harmful]
    (tmp_path / "harmful.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "suite.json").write_text(json.dumps(rows[:3]), encoding="utf-8")
    settings = [f"direction.harmful_train={tmp_path / 'harmful.json'}", f"held_out=['{tmp_path / 'suite.json'}']"]
    recipe = load_recipe(
        place / "recipe.yaml", SafeSteerRecipe, [f"output={tmp_path / 'out'}", "max_steps=1", *settings]
    )
    assert {prompt.text for prompt in _read_sets(recipe)[0]["harmful_train"]} == set(harmful[3:])
    said = []
    data = train_safesteer(recipe, said.append)["data"]
    assert said[0] == "dropped, since they overlap held-out prompts: 3 of harmful_train"
    assert data["harmful_train"] == 6 and data["held_out_dropped"]["harmful_train"] == 3
    assert sum(data["held_out_dropped"].values()) == 3


def test_other_prompts_than_those_of_the_run_are_refused(place, tmp_path):
    prompts(tmp_path / "own.jsonl", 200, True)
    settings = (tmp_path / "out", "max_steps=1", f"direction.harmful_train={tmp_path / 'own.jsonl'}")
    result = run(place, *settings)
    assert run(place, *settings) == result
    prompts(tmp_path / "own.jsonl", 600, True)
    for finished in (True, False):
        with pytest.raises(ResultFolderError, match="made of something else: harmful_train changed since"):
            run(place, *settings)
        if finished:
            (tmp_path / "out" / "finetune.json").unlink()


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("direction.refusal_openings=['Q']", FinetuneDataError, "none of the 6 prompts of harmful_train is left"),
        ("max_prompt_tokens=5", FinetuneDataError, "more than max_prompt_tokens 5"),
        ("held_out=['{place}/a.jsonl']", FinetuneDataError, r"6 of 6 prompts of .*a\.jsonl overlap held-out ones"),
        ("prompts='{place}/a.jsonl'", FinetuneDataError, "is in prompts too; the sets must not share"),
        ("prompts='{place}/none.jsonl'", FinetuneDataError, r"none\.jsonl cannot be read"),
        ("samples_per_prompt=3", FinetuneRecipeError, "must be a multiple of samples_per_prompt 3"),
        ("max_prompts=1", FinetuneDataError, "1 prompts with 4 samples each are fewer than"),
        ("los=full", FinetuneRecipeError, "los: Extra inputs"),
    ],
)
def test_bad_input_is_said_before_training(place, override, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        run(place, tmp_path, override.format(place=place))
    assert "north" not in str(caught.value), "no message holds a prompt"
    assert not (tmp_path / "adapter").exists()
    assert error is not FinetuneRecipeError or issubclass(error, RecipeError)


def test_a_prompt_that_holds_a_special_token_is_refused(place, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "hello <|end|> there"}\n{"prompt": "plain"}')
    with pytest.raises(FinetuneDataError, match=r"holds the special token <\|end\|>"):
        run(place, tmp_path / "out", f"prompts={tmp_path / 'bad.jsonl'}")
