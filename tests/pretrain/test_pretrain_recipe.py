"""Recipes: the shipped one loads, and each mistake is named."""

from pathlib import Path

import pytest

from pretrain.errors import PretrainRecipeError
from pretrain.recipe import ModelConfig, PretrainRecipe, load_recipe

DEMO = Path(__file__).resolve().parents[2] / "recipes" / "pretrain_demo.yaml"


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
        ({"seed.x": 1}, "seed holds a single value"),
    ],
)
def test_mistakes_are_named(overrides, message):
    with pytest.raises(PretrainRecipeError, match=message) as caught:
        load_recipe(DEMO, {"train_iters": 60, **overrides})
    assert caught.value.exit_code == 2


def test_unreadable_recipes(tmp_path):
    with pytest.raises(PretrainRecipeError, match="there is no recipe"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(PretrainRecipeError, match="`key: value` lines"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(PretrainRecipeError, match="cannot be read as YAML"):
        load_recipe(tmp_path / "bad.yaml")
