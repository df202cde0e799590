"""Wrong data fails before the first step, and says what is wrong, where, and what to do."""

import json
import shutil

import pytest

from pretrain.blended_data import BlendedData
from pretrain.data_settings import DataStage
from pretrain.errors import PretrainDataError, PretrainRecipeError
from pretrain.indexed_dataset import IndexedDatasetBuilder
from pretrain.loop import pretrain
from pretrain.recipe import PretrainRecipe, load_recipe
from tests.pipeline.tiny_tokenizer import save_tiny_tokenizer


def refused(recipe, message, **updates):
    """The run raises an error with `message` and writes nothing into its save folder."""
    with pytest.raises(PretrainDataError, match=message):
        pretrain(recipe.model_copy(update=updates), lambda line: pytest.fail("an iteration ran"))
    assert not list(recipe.save.glob("iter_*"))


def change_blend(recipe, **keys):
    recipe.data.write_text(json.dumps({**json.loads(recipe.data.read_text()), **keys}))


def change_source(recipe, name, **keys):
    sources = json.loads(recipe.data.read_text())["sources"]
    change_blend(recipe, sources=[{**s, **keys} if s["name"] == name else s for s in sources])


def test_dtype_too_small_for_the_vocabulary(recipe):
    change_blend(recipe, vocabulary_size=70_000)
    refused(recipe, r"blend\.json: dtype uint16 holds ids up to 65535, too small for the vocabulary of 70000.*tokenise")
    change_blend(recipe, vocabulary_size=61, dtype="float32")
    refused(recipe, "dtype 'float32' holds no token ids; expected uint16 or int32")
    change_blend(recipe, dtype="tokens")
    refused(recipe, "dtype 'tokens' holds no token ids")


@pytest.mark.parametrize("suffix", [".bin", ".idx"])
def test_truncated_files(recipe, suffix):
    file = recipe.data.parent / "safe" / f"00001{suffix}"
    file.write_bytes(file.read_bytes()[:-3])
    refused(recipe, rf"safe/00001\{suffix} is truncated: \d+ bytes, .* promises \d+")


def test_missing_shard(recipe):
    (recipe.data.parent / "safe" / "00001.idx").unlink()
    refused(recipe, r"safe/00001\.idx is missing")


def test_ids_of_another_tokenizer(recipe):
    documents = [[3, 4, 60_000, 0]] * 30
    with IndexedDatasetBuilder(recipe.data.parent / "moral/00000", "uint16") as builder:
        for document in documents:
            builder.add_document(document)
    change_source(recipe, "moral", tokens=120, documents=30)
    refused(recipe, r"source moral holds token ids from 0 to 60000 in .*moral/00000\.bin, outside the vocabulary of 61")


def test_ids_between_the_probes_are_found_when_they_are_read(recipe):
    with IndexedDatasetBuilder(recipe.data.parent / "moral/00000", "uint16") as builder:
        for _ in range(400):
            builder.add_document([5] * 2999 + [0])
    change_source(recipe, "moral", tokens=1_200_000, documents=400)
    data = BlendedData(recipe.data, 16, 20, 1)
    content = bytearray((recipe.data.parent / "moral/00000.bin").read_bytes())
    assert len(content) > 64 * 2 * 4096
    for start in range(0, len(content), 4):
        content[start : start + 2] = b"\x60\xea"
    (recipe.data.parent / "moral/00000.bin").write_bytes(content)
    moral = next(i for i in range(20) if data.counts(range(i, i + 1))[0]["moral"])
    with pytest.raises(
        PretrainDataError, match=r"source moral holds token ids from .* to 60000, outside the vocabulary"
    ):
        data.tokens(moral)


def test_another_tokenizer_beside_the_tokens(recipe):
    folder = save_tiny_tokenizer(recipe.data.parent / "tokenizer", "bpe")
    change_blend(recipe, tokenizer_sha256="0" * 64)
    refused(recipe, r"tokenizer/tokenizer\.json has sha256 .*\.\.\., .*blend\.json was written with 000000000000\.\.\.")
    shutil.rmtree(folder)
    assert BlendedData(recipe.data, 16, 20, 1).fingerprint["tokenizer"] == "0" * 64


def test_another_tokenizer_than_the_models(recipe, tmp_path):
    corpus = save_tiny_tokenizer(recipe.data.parent / "tokenizer", "bpe")
    model = tmp_path / "model"
    shutil.copytree(corpus, model)
    # Tokens that the corpus has and the model has not, such as the tag, are none of its business.
    file = json.loads((corpus / "tokenizer.json").read_text())
    file["added_tokens"].append({**file["added_tokens"][0], "id": 400, "content": "<tag>"})
    (corpus / "tokenizer.json").write_text(json.dumps(file))
    BlendedData(recipe.data, 16, 20, 1, model_tokenizer=model)
    shutil.rmtree(model)
    other = save_tiny_tokenizer(model, "words")
    refused(
        recipe, r"written with another tokenizer than .*model: \d+ of \d+ tokens differ, first id 1 ", tokenizer=other
    )
    refused(recipe, r"none/tokenizer\.json is missing; it is needed to compare", tokenizer=tmp_path / "none")


def test_empty_source(recipe):
    with IndexedDatasetBuilder(recipe.data.parent / "moral/00000", "uint16"):
        pass
    change_source(recipe, "moral", tokens=0, documents=0)
    refused(recipe, "source moral in .*tokens is empty; tokenise its texts, or give it weight 0 in the recipe")
    change_source(recipe, "moral", shards=[])
    refused(recipe, "source moral in .*tokens is empty")
    pretrain(recipe.model_copy(update={"weights": {"safe": 1.0}}), lambda line: None)


def test_sequence_longer_than_the_whole_source(recipe):
    with IndexedDatasetBuilder(recipe.data.parent / "moral/00000", "uint16") as builder:
        builder.add_document([1] * 16)
    change_source(recipe, "moral", tokens=16, documents=1)
    refused(recipe, "source moral in .* holds 16 tokens in all, less than one sample of 16 and its last label; lower")


def test_weights_of_an_unknown_source(recipe):
    message = r"the recipe gives a weight to 'tagd', but .*blend\.json has the sources safe, moral; correct the name"
    refused(recipe, message, weights={"safe": 1.0, "tagd": 0.5})
    refused(recipe, message, stages=[DataStage(tokens=None, weights={"tagd": 0.5})])


def test_weights_that_are_all_zero(recipe):
    for name in ("safe", "moral"):
        change_source(recipe, name, weight=0)
    refused(recipe, r"blend\.json: the weights of all sources are zero; give at least one a positive weight")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weights": {"safe": 0, "moral": 0.0}}, "all weights are zero; give at least one source"),
        ({"weights": {"safe": -1}}, "the weight of safe is -1.0; a weight is a finite number"),
        ({"weights": {"safe": ".inf"}}, "the weight of safe is inf; a weight is a finite number"),
        ({"stages": [{"tokens": 64, "weights": {"safe": 0}}]}, r"stages.0: .*all weights are zero"),
        ({"stages": [{"weights": {"safe": 1}}, {"weights": {"safe": 1}}]}, "stage 1 has no tokens; only the last"),
        ({"stages": [{"weights": {"safe": 1}}], "weights": {"safe": 1}}, "give either weights or stages"),
        ({"loss_mask": {"tags": True}}, r"loss_mask\.tags: Extra inputs"),
    ],
)
def test_wrong_mixtures_in_the_recipe(recipe, tmp_path, keys, message):
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps({**json.loads(recipe.model_dump_json()), **keys}).replace('".inf"', ".inf"))
    with pytest.raises(PretrainRecipeError, match=message):
        load_recipe(path)


def test_stages_too_short_for_the_run(recipe):
    refused(
        recipe, "reads 32 samples of 16 tokens, its stages hold 31", stages=[DataStage(tokens=511, weights={"safe": 1})]
    )


def test_keys_are_documented():
    assert PretrainRecipe.model_fields["stages"].description
    assert [name for name, key in DataStage.model_fields.items() if not key.description] == []
