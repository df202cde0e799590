"""Samples across shards, counts per source, the fingerprint, and errors that name the source."""

import json

import numpy as np
import pytest

from pretrain.blend import blend_index, samples_per_source
from pretrain.blend_file import load_blend
from pretrain.blended_data import BlendedData
from pretrain.errors import PretrainDataError
from pretrain.gpt_indices import build_gpt_indices
from pretrain.indexed_dataset import IndexedDataset


def change(blend_file, **keys):
    blend_file.write_text(json.dumps({**json.loads(blend_file.read_text()), **keys}))


def test_samples_are_those_of_the_indices(blend_file):
    data = BlendedData(blend_file, 16, samples=90, seed=3)
    sources = load_blend(blend_file).sources
    index, numbers = blend_index([source.weight for source in sources], 90)
    for which, wanted in enumerate(samples_per_source([source.weight for source in sources], 90)):
        shards = [IndexedDataset(blend_file.parent / shard) for shard in sources[which].shards]
        documents = [shard[i] for shard in shards for i in range(len(shard))]
        indices = build_gpt_indices(np.array([len(d) for d in documents], np.int32), 16, wanted, 3)
        stream = np.concatenate([documents[d] for d in indices.documents])
        for sample in np.flatnonzero(index == which):
            start = 16 * int(indices.shuffle[numbers[sample]])
            assert data.tokens(int(sample)).tolist() == stream[start : start + 17].tolist()
    assert data.counts(range(10, 30))[0] == {
        source.name: 16 * int((index[10:30] == which).sum()) for which, source in enumerate(sources)
    }


def test_fingerprint_sees_content_weights_and_seed(blend_file):
    first = BlendedData(blend_file, 16, 20, seed=3).fingerprint
    assert BlendedData(blend_file, 16, 20, seed=3).fingerprint == first
    assert BlendedData(blend_file, 16, 20, seed=4).fingerprint != first
    data = blend_file.parent / "moral" / "00000.bin"
    content = bytearray(data.read_bytes())
    content[len(content) // 4 * 2] ^= 1
    data.write_bytes(content)
    changed = BlendedData(blend_file, 16, 20, seed=3).fingerprint
    assert [key for key in first if first[key] != changed[key]] == ["moral files"]


def test_wrong_blends_are_named(blend_file, tmp_path):
    with pytest.raises(PretrainDataError, match="no blend file at"):
        load_blend(tmp_path / "none.json")
    good = blend_file.read_text()
    for keys, message in [
        ({"sources": []}, "sources: List should have at least 1 item"),
        ({"tag_token_id": 61}, "tag_token_id 61 lies outside"),
        ({"dtype": "int32"}, "holds uint16 tokens, int32 was expected"),
        ({"sources": [{**json.loads(good)["sources"][0], "tokens": 7}]}, "source safe in .* holds .* promises 7 in 80"),
    ]:
        blend_file.write_text(good)
        change(blend_file, **keys)
        with pytest.raises(PretrainDataError, match=message):
            BlendedData(blend_file, 16, 20, seed=3)
    blend_file.write_text(good)
    change(blend_file, vocabulary_size=20, tag_token_id=19)
    with pytest.raises(PretrainDataError, match=r"ids from 0 to 5\d in .*00000.bin, outside the vocabulary of 20"):
        BlendedData(blend_file, 16, 20, seed=3)
