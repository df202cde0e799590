"""Recipes: the shipped one loads, and each mistake is named."""

from pathlib import Path

import pytest

from pretrain.__main__ import main
from pretrain.errors import PretrainRecipeError
from pretrain.loop import PretrainResult
from pretrain.recipe import ModelConfig, PretrainRecipe, load_recipe, model_shapes, read_overrides
from safetrove.pretraining import run_pretraining

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "pretrain_demo.yaml"
DONE = PretrainResult(None, None, 0, 8, 0)


def test_demo_recipe_loads_with_overrides():
    recipe = load_recipe(DEMO, {"data": "elsewhere/blend.json", "model.layers": "3"})
    assert recipe.data == Path("elsewhere/blend.json")
    assert recipe.model.layers == 3
    assert recipe.model.padded_vocabulary(49_153) == 49_280


def test_every_key_is_documented():
    for model in (PretrainRecipe, ModelConfig):
        assert [name for name, key in model.model_fields.items() if not key.description] == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"trian_iters": 5}, "trian_iters: Extra inputs"),
        ({"model.depth": 5}, r"model\.depth: Extra inputs"),
        ({"model.heads": 3}, "even multiple of heads 3"),
        ({"model.kv_heads": 3}, "multiple of kv_heads 3"),
        ({"micro_batch_size": 3}, "global_batch_size 8 must be a multiple of micro_batch_size 3"),
        ({"lr": "fast"}, "lr: Input should be a valid number"),
        ({"min_lr": 1}, "min_lr 1.0 exceeds lr"),
        ({"lr_warmup_iters": 59}, "exceed the schedule's 60 updates"),
        ({"data_samples": 10}, "less than the 480 samples"),
        ({"model.shape": "smollm3"}, "no shape 'smollm3'; choose one of smollm2-135m"),
        ({"tensor_parallel": 4}, "tensor_parallel 4 must divide kv_heads 2"),
        ({"train_samples": 800}, "either train_iters or train_samples"),
        ({"lr_warmup_samples": 8}, "either lr_warmup_iters or lr_warmup_samples"),
        ({"finetune": True}, "finetune needs load"),
        ({"load": "a", "init_from": "b"}, "either load or init_from"),
        ({"save": "runs/x", "export": "runs/x"}, "export runs/x is replaced as a whole .* with save runs/x in it"),
        (
            {"save": "runs/x/save", "export": "runs/y/../x"},
            "with save runs/x/save in it; give export a folder of its own",
        ),
        ({"load": "runs/x/a", "export": "runs/x"}, "with load runs/x/a in it"),
        ({"init_from": "runs/x/", "export": "runs/x"}, "with init_from runs/x in it"),
        ({"data": "runs/x/blend.json", "export": "runs/x"}, "with data runs/x/blend.json in it"),
        ({"precision": "fp16"}, "precision: Input should be 'fp32' or 'bf16'"),
        ({"seed.x": 1}, "seed holds a single value"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(PretrainRecipeError, match=message) as caught:
        load_recipe(DEMO, {"train_iters": 60, **overrides})
    assert caught.value.exit_code == 2


def test_values_of_the_command_line_are_yaml():
    given = ["export=null", "weights={safe: 1}", "shard_ranks=null", "lr=1e-3", "model.layers=3", "save=a=b"]
    recipe = load_recipe(DEMO, read_overrides(given))
    assert (recipe.export, recipe.weights, recipe.shard_ranks) == (None, {"safe": 1.0}, None)
    assert (recipe.lr, recipe.model.layers, recipe.save) == (1e-3, 3, Path("a=b"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "--set lr: write it as key=value, for example --set model.layers=4"),
        ("=4", "--set =4: write it as key=value"),
        ("weights={safe: 1", "--set weights={safe: 1: the value is not YAML; put it in quotes"),
        ("save=2026-13-01", "--set save=2026-13-01: the value is not YAML; put it in quotes"),
    ],
)
@pytest.mark.parametrize("command", [main, lambda given: run_pretraining(DEMO, given[2::2])])
def test_wrong_overrides_are_named(override, message, command, capsys):
    try:
        assert command([str(DEMO), "--set", override]) == 2
        said = capsys.readouterr().err
    except PretrainRecipeError as error:
        said = str(error)
    assert said.startswith(message)


def test_both_commands_read_the_values_of_set_as_yaml(monkeypatch):
    given = []
    for command in ("pretrain.__main__", "safetrove.pretraining"):
        monkeypatch.setattr(f"{command}.run", lambda recipe, overrides, *rest, **more: given.append(overrides) or DONE)
    assert main([str(DEMO), "--set", "export=null"]) == run_pretraining(DEMO, ["export=null"]) == 0
    assert given == [{"export": None}] * 2


def test_unreadable_recipes(tmp_path):
    with pytest.raises(PretrainRecipeError, match="there is no recipe"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(PretrainRecipeError, match="`key: value` lines"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(PretrainRecipeError, match="cannot be read as YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_shapes_have_names_and_may_be_changed():
    assert load_recipe(DEMO, {"model": "smollm2-360m"}).model.init_std == 0.03227
    changed = load_recipe(DEMO, {"model": {"shape": "smollm2-360m", "rope_theta": 100_000}}).model
    assert (changed.layers, changed.rope_theta) == (32, 100_000)
    for name in model_shapes():
        assert ModelConfig.model_validate(name).norm_epsilon == 1e-5


def test_a_run_counted_in_samples_is_that_counted_in_updates():
    updates = load_recipe(DEMO, {"train_iters": 60})
    settings = updates.model_dump(exclude={"train_iters", "lr_warmup_iters", "lr_wsd_decay_iters"})
    samples = {"train_samples": 60 * 8 + 7, "lr_warmup_samples": 6 * 8, "lr_wsd_decay_samples": 12 * 8}
    by_samples = PretrainRecipe.model_validate({**settings, **samples})
    assert by_samples.train_iters == 60
    assert by_samples.schedule() == updates.schedule()
    # What was validated once can be written down and read again.
    assert PretrainRecipe.model_validate_json(by_samples.model_dump_json()) == by_samples
