"""P(tag | context) on a tiny model: identities of the formula, and the measurement inside a training run."""

import json

import numpy as np
import pytest
import torch
from rank_pool import run_ranks

from pretrain.blend_file import load_blend
from pretrain.errors import PretrainDataError, PretrainRecipeError
from pretrain.indexed_dataset import IndexedDatasetBuilder
from pretrain.loop import pretrain
from pretrain.model import new_decoder
from pretrain.recipe import load_recipe
from pretrain.tag_probability import (
    document_tag_probabilities,
    mean_over_documents,
    next_tag_probabilities,
    read_held_out,
)
from pretrain.tokenizer_training import train_tokenizer


def silent(line):
    pass


def test_padded_ids_have_no_share():
    logits = torch.randn(2, 3, 8)
    found = next_tag_probabilities(logits, 4, 6)
    torch.testing.assert_close(found, logits[..., :6].exp()[..., 4] / logits[..., :6].exp().sum(-1))
    logits[..., 6:] += 100
    torch.testing.assert_close(next_tag_probabilities(logits, 4, 6), found)
    everything = sum(next_tag_probabilities(logits, token, 6) for token in range(6))
    torch.testing.assert_close(everything, torch.ones(2, 3))


def test_the_mean_leaves_out_the_first_position_and_padding():
    values = torch.tensor([[9.0, 1.0, 3.0, 9.0], [9.0, 1.0, 2.0, 6.0]])
    assert mean_over_documents(values, [2, 3]) == [2.0, 3.0]


def test_a_document_is_measured_alone_whatever_stands_beside_it(recipe):
    blend = load_blend(recipe.data)
    decoder = new_decoder(recipe.model, blend.vocabulary_size, 3)
    random = np.random.default_rng(0)
    documents = [random.integers(1, 60, length).tolist() for length in (*range(1, 31), 5, 40)]
    together = document_tag_probabilities(decoder, documents, blend, 32)
    for document, value in zip(documents, together, strict=True):
        with torch.no_grad():
            logits = decoder(torch.tensor([[0, *document[:31]]]))[0, 1:, :61].double()
        assert value == pytest.approx(logits.softmax(-1)[:, 60].mean().item(), rel=1e-5)
    # A document that is too long is measured by its beginning.
    assert document_tag_probabilities(decoder, [documents[-1][:31]], blend, 32)[0] == pytest.approx(
        together[-1], rel=1e-5
    )


WORDS = ("ferry", "bread", "lake"), ("knife", "spite", "venom")


@pytest.fixture
def tagged(recipe, tmp_path):
    """Texts of two vocabularies; the tag stands in those of the second alone. Held-out texts of both, in two sources."""
    random = np.random.default_rng(5)
    texts = [" ".join(random.choice(WORDS[kind], 12)) for kind in (0, 1) for _ in range(40)]
    folder = recipe.data.parent
    train_tokenizer(iter(texts), folder / "tokenizer", 320)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer/tokenizer.json"))
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    documents = [[*(np.insert(text, [3, 7], 1).tolist() if n >= 40 else text), 0] for n, text in enumerate(ids)]
    with IndexedDatasetBuilder(folder / "safe/00000", "uint16") as builder:
        for document in documents:
            builder.add_document(document)
    blend = json.loads(recipe.data.read_text())
    counts = {"tokens": sum(map(len, documents)), "documents": len(documents)}
    sources = [{"name": "safe", "weight": 1.0, "shards": ["safe/00000"], **counts}]
    blend |= {"vocabulary_size": 320, "tag_token_id": 1, "sources": sources}
    recipe.data.write_text(json.dumps(blend))
    held_out = tmp_path / "held_out.jsonl"
    rows = [
        {
            "id": f"{source}{kind}{n}",
            "source": source,
            "score": 4 * kind,
            "text": " ".join(random.choice(WORDS[kind], 9)),
        }
        for source in ("post", "page")
        for kind in (0, 1)
        for n in range(5)
    ]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return recipe.model_copy(
        update={"tag_probability": settings(held_out), "train_iters": 60, "save_interval": 20, "seq_length": 24}
    )


def settings(path, **changes):
    from pretrain.data_settings import TagProbabilitySettings

    return TagProbabilitySettings(data=path, interval=25, least_documents=5, **changes)


def measures(recipe):
    pretrain(recipe, silent)
    records = [json.loads(line) for line in (recipe.save / "metrics.jsonl").read_text().splitlines()]
    return {record["iteration"]: record["tag_probability"] for record in records if "tag_probability" in record}


def test_training_teaches_where_the_tag_stands(tagged, tmp_path):
    lines = []
    pretrain(tagged.model_copy(update={"save": tmp_path / "said"}), lines.append)
    found = measures(tagged)
    assert list(found) == [25, 50, 60]
    last = found[60]["unsafe_from_3"]
    assert last["by_source"] == {"page": 1.0, "post": 1.0} and last["average"] == last["overall"] == 1.0
    assert last["documents"] == {"page": [5, 5], "post": [5, 5]}
    said = [line for line in lines if "tag probability at iteration 60" in line]
    assert len(said) == 2 and "within sources: 1.0000 | page: 1.0000 | post: 1.0000" in said[0]
    rows = [json.loads(x) for x in (tagged.save / "tag_probability/iter_0000060.jsonl").read_text().splitlines()]
    assert {"id", "source", "score", "tag_probability"} == rows[0].keys()
    unsafe, safe = (np.mean([r["tag_probability"] for r in rows if r["score"] == score]) for score in (4, 0))
    assert unsafe > 3 * safe
    both = run_ranks(2, measures, tagged.model_copy(update={"save": tmp_path / "two", "tensor_parallel": 2}))[0]
    assert both[60]["unsafe_from_3"]["average"] == 1.0


def test_measuring_leaves_the_training_alone(tagged, tmp_path):
    measured = pretrain(tagged, silent)
    plain = pretrain(tagged.model_copy(update={"save": tmp_path / "plain", "tag_probability": None}), silent)
    assert measured.last_loss == plain.last_loss


def test_a_resumed_run_has_each_measurement_once(tagged):
    pretrain(tagged.model_copy(update={"exit_interval": 30}), silent)
    assert list(measures(tagged)) == [25, 50, 60]


def test_broken_held_out_files_are_refused(tagged, tmp_path):
    with pytest.raises(PretrainDataError, match=r"tag_probability\.data: there is no file .*none\.jsonl"):
        read_held_out(tmp_path / "none.jsonl")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"id": "a", "source": "post", "score": 0, "text": "x"}\n{"id": "b"}\n')
    with pytest.raises(PretrainDataError, match=r"broken\.jsonl, line 2: expected a JSON object with id"):
        read_held_out(broken)
    broken.write_text("")
    with pytest.raises(PretrainDataError, match="holds no documents"):
        read_held_out(broken)
    broken.write_text('{"id": "a", "source": "post", "score": 0, "text": ""}\n')
    with pytest.raises(PretrainDataError, match="document a has no tokens"):
        pretrain(tagged.model_copy(update={"tag_probability": settings(broken)}), silent)
    assert not tagged.save.exists()


def test_the_recipe_refuses_levels_that_are_no_unsafe_ones(tmp_path):
    path = tmp_path / "recipe.yaml"
    base = {"data": "d", "save": "s", "model": "tiny", "seq_length": 8, "micro_batch_size": 1, "global_batch_size": 1}
    path.write_text(
        json.dumps({**base, "train_iters": 1, "lr": 1, "tag_probability": {"data": "x", "unsafe_from": [0]}})
    )
    with pytest.raises(PretrainRecipeError, match=r"tag_probability\.unsafe_from\.0"):
        load_recipe(path)
