"""Weights of a Hugging Face Llama: the same logits here, a grown vocabulary, and folders that do not fit are named."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune.magic_tokens.release_guard import mark_not_for_release
from pretrain.errors import CheckpointError
from pretrain.export import whole_weights
from pretrain.hugging_face_import import llama_shape, llama_weights
from pretrain.loop import pretrain
from pretrain.mesh import Ranks
from pretrain.model import Decoder, initial_weights, put_weights
from pretrain.recipe import ModelConfig
from pretrain.training import Training

WORDS = 60  # the blend's vocabulary has one more, the tag


@pytest.fixture
def llama(recipe):
    torch.manual_seed(0)
    model = recipe.model
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS,
            hidden_size=model.hidden_size,
            intermediate_size=model.ffn_hidden_size,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            num_key_value_heads=model.kv_heads,
            rms_norm_eps=model.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
            tie_word_embeddings=True,
            initializer_range=0.2,
        )
    )


@pytest.fixture
def folder(llama, tmp_path):
    llama.save_pretrained(tmp_path / "llama", max_shard_size="20KB")
    assert len(list((tmp_path / "llama").glob("*.safetensors"))) > 1
    return tmp_path / "llama"


def imported(folder, config, vocabulary):
    decoder = Decoder(config, vocabulary)
    put_weights(decoder, llama_weights(folder, config, initial_weights(config, 1)))
    return decoder


def change_config(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_imported_weights_give_equal_logits_and_export_gives_them_back(llama, folder, recipe):
    decoder = imported(folder, recipe.model, WORDS + 1)
    ids = torch.randint(0, WORDS, (3, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = decoder(ids)
        torch.testing.assert_close(ours[..., :WORDS], llama(ids).logits, rtol=1e-5, atol=1e-5)
    assert ours.shape[-1] == 64
    # Rows of new tokens are drawn like any other weight.
    assert float(decoder.embedding.weight[WORDS:].std()) == pytest.approx(recipe.model.init_std, rel=0.3)
    exported, theirs = whole_weights(decoder), llama.state_dict()
    for name, value in exported.items():
        assert torch.equal(value[: len(theirs[name])], theirs[name])


def test_a_run_begins_with_the_imported_weights(llama, folder, recipe):
    fresh = pretrain(recipe.model_copy(update={"save": recipe.save / "fresh"}), lambda line: None)
    recipe = recipe.model_copy(update={"init_from": folder, "lr": 1e-3, "lr_decay_style": "constant"})
    training = Training(recipe, Ranks(0, 1, torch.device("cpu")), None)
    assert torch.equal(training.decoder.embedding.weight[:WORDS], llama.model.embed_tokens.weight)
    # With weights of a standard deviation of 0.2 the first loss is not that of a uniform guess.
    assert abs(pretrain(recipe, lambda line: None).first_loss - fresh.first_loss) > 0.05
    # A resumed run does not read them again.
    (folder / "config.json").unlink()
    assert pretrain(recipe, lambda line: None).iterations_run == 0
    assert (
        pretrain(recipe.model_copy(update={"train_iters": 9, "data_samples": None}), lambda line: None).resumed_from
        == 8
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_hidden_layers": 3}, "layers: 3 in the folder, 2 in the recipe"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, "rope_theta: 7.0 in the folder, 500.0"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0}}, "has rope_type 'llama3'; only 'default'"),
        ({"tie_word_embeddings": False}, "has tie_word_embeddings False; only True"),
        ({"model_type": "qwen2"}, "has model_type 'qwen2'; only 'llama'"),
        ({"attention_bias": True}, "has attention_bias True"),
    ],
)
def test_models_of_another_kind_or_shape_are_refused_before_the_first_step(folder, recipe, keys, message):
    change_config(folder, **keys)
    with pytest.raises(CheckpointError, match=message):
        pretrain(recipe.model_copy(update={"init_from": folder}), lambda line: None)
    assert not recipe.save.exists()


def test_broken_and_foreign_folders_are_named(folder, recipe, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no \S+none/config\.json"):
        llama_shape(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is \[60, 32\] .* tokenised with that model's"):
        imported(folder, recipe.model, 40)
    last = sorted(folder.glob("*.safetensors"))[-1]
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(CheckpointError, match=r"holds no weight model\.layers\.1"):
        imported(folder, recipe.model, 61)
    last.write_bytes(content[:50])
    with pytest.raises(CheckpointError, match="cannot be read"):
        imported(folder, recipe.model, 61)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"no \.safetensors files"):
        imported(folder, recipe.model, 61)
    mark_not_for_release(folder)
    with pytest.raises(CheckpointError, match="trained with rows of the negative mode and must not be published"):
        llama_shape(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no JSON"):
        llama_shape(folder)
    (folder / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    with pytest.raises(CheckpointError, match="has no key 'num_hidden_layers'"):
        llama_shape(folder)


def test_shapes_of_smollm2():
    for name, parameters in (
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
    ):
        with torch.device("meta"):
            decoder = Decoder(ModelConfig.model_validate(name), 49_152)
        assert sum(parameter.numel() for parameter in decoder.parameters()) == parameters


def test_the_embedded_smollm2_gives_equal_logits():
    pytest.importorskip("gguf")
    from rephrasers.embedded_writer import embedded_writer_folder

    folder = embedded_writer_folder()
    config = ModelConfig.model_validate({"shape": "smollm2-135m", "rope_theta": 100_000.0})
    decoder = imported(folder, config, 49_153)
    ids = torch.tensor([[504, 2365, 6354, 16438, 27003, 690, 260, 23790, 1453]])
    with torch.no_grad():
        theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
        torch.testing.assert_close(decoder(ids)[..., :49_152], theirs, rtol=1e-4, atol=1e-3)
