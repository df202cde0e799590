"""A small blend of two sources (one in two shards) with a real tokenizer folder, and a recipe that trains on it."""

import json

import numpy as np
import pytest

from pretrain.indexed_dataset import IndexedDatasetBuilder
from pretrain.recipe import PretrainRecipe

VOCABULARY = 61


def write_blend(folder, seed=0, documents=40):
    """Texts that count upwards with small noise, so that a few steps lower the loss."""
    random = np.random.default_rng(seed)
    sources = []
    for name, weight, shards in (("safe", 0.7, 2), ("moral", 0.3, 1)):
        tokens = count = 0
        prefixes = [f"{name}/{shard:05d}" for shard in range(shards)]
        for prefix in prefixes:
            with IndexedDatasetBuilder(folder / prefix, "uint16") as builder:
                for _ in range(documents):
                    ids = 1 + (random.integers(0, 50) + np.arange(random.integers(3, 40))) % 58
                    builder.add_document([*ids.tolist(), 0])
                    tokens, count = tokens + len(ids) + 1, count + 1
        sources.append({"name": name, "weight": weight, "tokens": tokens, "documents": count, "shards": prefixes})
    blend = {
        "tokenizer": "tokenizer",
        "vocabulary_size": VOCABULARY,
        "tag_token": "<potentially_unsafe_content>",
        "tag_token_id": VOCABULARY - 1,
        "end_of_document_id": 0,
        "dtype": "uint16",
        "sources": sources,
    }
    (folder / "blend.json").write_text(json.dumps(blend))
    return folder / "blend.json"


@pytest.fixture
def blend_file(tmp_path):
    return write_blend(tmp_path / "tokens")


@pytest.fixture
def rewrite_blend(blend_file):
    """Replace the texts of the blend by those of another seed."""
    return lambda seed: write_blend(blend_file.parent, seed)


@pytest.fixture
def recipe(tmp_path, blend_file):
    """8 iterations of a model of 2 layers; `recipe.model_copy(update=...)` for variants."""
    return PretrainRecipe.model_validate(
        {
            "data": blend_file,
            "save": tmp_path / "save",
            "model": {
                "layers": 2,
                "hidden_size": 32,
                "ffn_hidden_size": 48,
                "heads": 4,
                "kv_heads": 2,
                "rope_theta": 500.0,
                "vocabulary_multiple": 16,
            },
            "seq_length": 16,
            "micro_batch_size": 2,
            "global_batch_size": 4,
            "train_iters": 8,
            "lr": 1e-2,
            "lr_warmup_iters": 2,
            "lr_wsd_decay_iters": 3,
            "save_interval": 2,
            "log_interval": 2,
            "threads": 1,
        }
    )
