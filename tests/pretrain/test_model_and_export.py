"""The decoder against transformers' Llama: equal logits after export; the tokenizer and its tag travel along."""

import json
import math
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from pretrain.checkpoint import checkpoint_folder
from pretrain.checkpoint_tensors import load_weights
from pretrain.cross_entropy import summed_cross_entropy
from pretrain.errors import PretrainDataError, PretrainError, PretrainRecipeError
from pretrain.export import NOTE, export_model
from pretrain.loop import pretrain
from pretrain.mesh import Ranks
from pretrain.model import flops_per_token, new_decoder
from pretrain.recipe import ModelConfig
from pretrain.training import Training

ALONE = Ranks(0, 1, torch.device("cpu"))
TAG = "<potentially_unsafe_content>"


def save_tokenizer(folder):
    words = {"<|endoftext|>": 0, **{f"w{i}": i for i in range(1, 60)}}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), eos_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [TAG]})
    tokenizer.save_pretrained(folder)


def test_exported_model_has_equal_logits(recipe, tmp_path):
    save_tokenizer(recipe.data.parent / "tokenizer")
    recipe = recipe.model_copy(update={"export": tmp_path / "out" / "hf", "train_iters": 3})
    pretrain(recipe, lambda line: None)
    exported = AutoModelForCausalLM.from_pretrained(recipe.export)
    decoder = new_decoder(recipe.model, 61, recipe.seed)
    load_weights(checkpoint_folder(recipe.save, 3), decoder, ALONE)
    ids = torch.randint(0, 61, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(exported(ids).logits, decoder(ids), rtol=1e-5, atol=1e-5)
    assert exported.config.vocab_size == 64
    assert exported.get_output_embeddings().weight is exported.get_input_embeddings().weight
    assert AutoTokenizer.from_pretrained(recipe.export).convert_tokens_to_ids(TAG) == 60
    # A lost export is written again without training; a whole one is left alone.
    shutil.rmtree(recipe.export)
    assert pretrain(recipe, lambda line: None).iterations_run == 0
    assert (recipe.export / NOTE).is_file()
    # An older export gives way to the newer one, and nothing else is left beside it.
    longer = recipe.model_copy(update={"train_iters": 4, "lr_decay_style": "constant"})
    assert pretrain(longer, lambda line: None).iterations_run == 1
    assert json.loads((recipe.export / NOTE).read_text())["iteration"] == 4
    assert [path.name for path in recipe.export.parent.iterdir()] == ["hf"]


def test_the_export_of_another_run_is_not_taken_for_this_ones(recipe, tmp_path):
    save_tokenizer(recipe.data.parent / "tokenizer")
    first = recipe.model_copy(update={"export": tmp_path / "hf", "train_iters": 2})
    pretrain(first, lambda line: None)
    # another run of as many iterations, whose process ended between its last checkpoint and its export
    second = first.model_copy(update={"seed": 7, "save": tmp_path / "second"})
    pretrain(second.model_copy(update={"export": None}), lambda line: None)
    assert pretrain(second, lambda line: None).iterations_run == 0
    decoder = new_decoder(recipe.model, 61, recipe.seed)
    load_weights(checkpoint_folder(second.save, 2), decoder, ALONE)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        ours, exported = decoder(ids), AutoModelForCausalLM.from_pretrained(second.export)(ids).logits
    torch.testing.assert_close(exported, ours, rtol=1e-5, atol=1e-5)
    # its own is known again, without the data
    recipe.data.unlink()
    assert pretrain(second, lambda line: None).iterations_run == 0


def test_a_folder_that_holds_no_export_is_not_replaced(recipe, tmp_path):
    save_tokenizer(recipe.data.parent / "tokenizer")
    recipe = recipe.model_copy(update={"export": tmp_path / "mine", "train_iters": 1})
    recipe.export.mkdir()
    (recipe.export / "notes.txt").write_text("years of work")
    message = (
        r"export: .*mine holds no earlier export \(there is no pretrain\.json in it\).*name a new or an empty folder"
    )
    with pytest.raises(PretrainRecipeError, match=message):
        pretrain(recipe, lambda line: None)
    assert not recipe.save.exists(), "refused before training"
    with pytest.raises(PretrainRecipeError, match=message):
        export_model(None, {}, None, recipe.data.parent / "tokenizer", 16, 1, "", recipe.export)
    assert (recipe.export / "notes.txt").read_text() == "years of work"
    (recipe.export / "notes.txt").unlink()
    pretrain(recipe, lambda line: None)  # an empty folder will do
    assert (recipe.export / NOTE).is_file()


def test_export_without_tokenizer_is_refused_before_training(recipe, tmp_path):
    with pytest.raises(PretrainDataError, match="names the tokenizer folder"):
        pretrain(recipe.model_copy(update={"export": tmp_path / "hf"}))
    assert not recipe.save.exists()


def test_same_seed_same_weights_and_uniform_first_loss():
    config = ModelConfig(layers=1, hidden_size=32, ffn_hidden_size=48, heads=4, kv_heads=1)
    first, second, other = (new_decoder(config, 100, seed) for seed in (1, 1, 2))
    assert torch.equal(first.embedding.weight, second.embedding.weight)
    assert not torch.equal(first.embedding.weight, other.embedding.weight)
    ids = torch.arange(50).reshape(2, 25)
    with torch.no_grad():
        loss = summed_cross_entropy(first(ids), ids + 1).item() / 50
    assert loss == pytest.approx(math.log(128), abs=0.05)


def test_flops_of_smollm2_1_7b():
    config = ModelConfig(layers=24, hidden_size=2048, ffn_hidden_size=8192, heads=32, kv_heads=32)
    # 1.71e9 matrix weights: 24 x (4 x 2048^2 + 3 x 2048 x 8192) and a head of 49,280 x 2048.
    matrices = 24 * (4 * 2048**2 + 3 * 2048 * 8192) + 49_280 * 2048
    assert flops_per_token(config, 49_153, 2048) == 6 * matrices + 6 * 24 * 2048 * 2048


def test_updates_with_infinite_gradients_consume_samples_but_not_schedule(recipe):
    training = Training(recipe.model_copy(update={"train_iters": 30}), ALONE, None)
    training.iterate()
    with torch.no_grad():
        training.decoder.norm.weight[0] = math.nan
    before = training.decoder.embedding.weight.clone()
    report = training.iterate()
    assert report.skipped
    assert torch.equal(training.decoder.embedding.weight, before)
    assert (training.state.iteration, training.state.updates, training.state.consumed_samples) == (2, 1, 8)
    with pytest.raises(PretrainError, match="10 updates in a row"):
        [training.iterate() for _ in range(9)]
