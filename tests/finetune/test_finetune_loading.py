"""Where fine-tuning starts: float32 weights, an adapter that changes nothing at first, clear errors."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from classifiers.errors import ModelError
from finetune.errors import FinetuneModelError, FinetuneRecipeError
from finetune.loading import LoraSettings, add_lora, load_starting_model
from finetune.recipe import ChatRecipe, load_recipe
from tests.finetune.tiny_llama import make_model, make_tokenizer, save_tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


def test_weights_are_float32_whatever_was_saved(folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    start = load_starting_model(str(tmp_path))
    assert {weight.dtype for weight in start.model.parameters()} == {torch.float32}
    assert start.tokenizer.pad_token_id is not None and start.tokenizer.padding_side == "right"
    assert start.reference.description == tmp_path.name


def test_a_fresh_adapter_changes_no_logit_and_is_drawn_by_the_seed(folder):
    ids = torch.arange(12)[None]
    first = load_starting_model(str(folder)).model
    before = first(ids).logits
    models = [add_lora(load_starting_model(str(folder)).model, LoraSettings(rank=2), seed) for seed in (1, 1, 2)]
    assert torch.equal(models[0].eval()(ids).logits, before)
    weights = [next(w for name, w in m.named_parameters() if "lora_A" in name) for m in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    with pytest.raises(FinetuneModelError, match="already carries an adapter"):
        add_lora(models[0], LoraSettings(), 1)
    with pytest.raises(FinetuneModelError, match=r"lora.targets \['no_such'\]: LlamaForCausalLM has no layers"):
        add_lora(first, LoraSettings(targets=("no_such",)), 1)


def test_models_that_cannot_be_tuned_are_refused(tmp_path):
    with pytest.raises(ModelError, match="neither an existing folder"):
        load_starting_model(str(tmp_path / "nowhere"))
    make_tokenizer().save_pretrained(tmp_path)
    make_model(200).save_pretrained(tmp_path)
    with pytest.raises(FinetuneModelError, match="the tokenizer has 259 tokens, the model 200 embeddings"):
        load_starting_model(str(tmp_path))
    (tmp_path / "finetune.json").write_text("{}")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match="does not name the model that was tuned"):
        load_starting_model(str(tmp_path))


def recipe(tmp_path, text, *overrides):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path, ChatRecipe, overrides)


GOOD = "output: out\ndata: [{name: a, path: a.jsonl}, {name: b, path: b.jsonl, share: 0.1}]\n"


def test_overrides_reach_into_sections_and_lists(tmp_path):
    found = recipe(tmp_path, GOOD, "lr=3e-4", "lora.rank=4", "data.1.share=0.25", "output=elsewhere")
    assert (found.lr, found.lora.rank, found.data[1].share, str(found.output)) == (3e-4, 4, 0.25, "elsewhere")
    assert recipe(tmp_path, GOOD, "lora=null").lora is None


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (GOOD, ["no_such_key=1"], "no_such_key: Extra inputs"),
        (GOOD, ["lr"], "--set lr: write it as key=value"),
        (GOOD, ["lr={"], "the value is not YAML"),
        (GOOD, ["output=2026-02-30"], "the value is not YAML; put it in quotes"),
        (GOOD, ["lr.inner.deep=1"], "lr: Input should be a valid number"),
        (GOOD, ["data.7.share=1"], "7 is no entry of the list, which has 2"),
        (GOOD, ["data.0.path.x=1"], "data.0.path holds a single value"),
        (GOOD, ["batch_size=6"], "must be a multiple of micro_batch_size 4"),
        (GOOD, ["packing=true"], "packing is not supported"),
        (GOOD, ["data.0.share=0.3"], "one source at least has none"),
        (GOOD, ["data.1.name=a"], "each source needs a name of its own"),
        (GOOD, ["data.0.builder=arithmetic_problems"], "give either path or builder"),
        (GOOD, ["data.1.rows=3"], "give either rows or share"),
        ("output: out\ndata: [{name: a, builder: arithmetic_problems}]\n", [], "a builder needs rows"),
        ("[1]\n", [], "is no recipe"),
        ("a: [\n", [], "cannot be read as YAML"),
    ],
)
def test_a_wrong_recipe_is_refused_and_names_the_key(tmp_path, text, overrides, message):
    with pytest.raises(FinetuneRecipeError, match=message) as error:
        recipe(tmp_path, text, *overrides)
    assert error.value.exit_code == 2


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(FinetuneRecipeError, match=r"nowhere\.yaml: no such recipe"):
        load_recipe(tmp_path / "nowhere.yaml", ChatRecipe)
