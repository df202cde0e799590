"""Vectors as they are kept: rounded once, packed exactly, scored by any head of their encoder."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from classifiers.embedding import SHIPPED_HEAD, EmbeddingHeads, empty_score, read_head_facts
from classifiers.encoder import Embeddings
from classifiers.errors import DataError, ModelError
from classifiers.kept_embeddings import KeptEmbeddingsClassifier, pack_vectors, unpack_vectors


def vectors(chunks, size, seed=0):
    drawn = np.random.default_rng(seed).normal(size=(chunks, size))
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def test_kept_vectors_score_as_the_vectors_themselves():
    facts = read_head_facts(SHIPPED_HEAD)
    sha256, size = facts.encoder_sha256, facts.size
    new = vectors(6, size)
    direct = EmbeddingHeads(SHIPPED_HEAD, sha256, size).score(Embeddings(new, np.array([0, 0, 1, 2, 2, 2])))
    rows = [{"n_chunks": b - a, "vectors": pack_vectors(new[a:b])} for a, b in ((0, 2), (2, 3), (3, 3), (3, 6))]
    assert KeptEmbeddingsClassifier().score(rows) == [*direct[:2], empty_score(), direct[2]]
    assert KeptEmbeddingsClassifier().score([]) == []


def test_packing_is_exact_after_the_first_rounding():
    once = unpack_vectors(pack_vectors(vectors(3, 8)), 3, 8)
    assert np.array_equal(unpack_vectors(pack_vectors(once), 3, 8), once)
    assert np.abs(once - vectors(3, 8)).max() < 1e-3


def test_bytes_of_another_shape_are_refused():
    with pytest.raises(DataError, match="expected 2 chunks of 8 fp16 values; rerun the stage embed"):
        unpack_vectors(pack_vectors(vectors(3, 8)), 2, 8)


def test_a_head_that_does_not_name_its_encoder_is_refused(tmp_path):
    save_file(load_file(SHIPPED_HEAD), tmp_path / "head.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ModelError, match="does not say which encoder"):
        read_head_facts(tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_head_facts(tmp_path / "broken.safetensors")
    with pytest.raises(ModelError, match="no such head"):
        read_head_facts(tmp_path / "none.safetensors")
