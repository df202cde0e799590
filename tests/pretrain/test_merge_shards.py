"""Merged shards: order, shuffling by seed, levels, and refusals."""

from itertools import pairwise

import numpy as np
import pytest

from pretrain.errors import PretrainDataError
from pretrain.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from pretrain.levels import levels_path, read_levels
from pretrain.merge_shards import main, merge_shards


@pytest.fixture
def shards(tmp_path):
    """Two shards; the second has documents of two sequences and of none."""
    with IndexedDatasetBuilder(tmp_path / "a", "uint16") as builder:
        for document in ([1, 2], [3], [4, 5, 6]):
            builder.add_document(document)
    with IndexedDatasetBuilder(tmp_path / "b", "uint16") as builder:
        for sequence in ([7], [8, 9]):
            builder.add_sequence(sequence)
        builder.end_document()
        builder.end_document()
        builder.add_document([10])
    levels_path(tmp_path / "a").write_bytes(bytes([0, 3, 5]))
    return [tmp_path / "a", tmp_path / "b"]


def documents(prefix):
    dataset = IndexedDataset(prefix)
    ends = dataset.document_boundaries
    return [[dataset[i].tolist() for i in range(*span)] for span in pairwise(ends)]


def test_order_is_kept_and_unknown_levels_are_filled_in(shards, tmp_path):
    assert merge_shards(tmp_path / "m", shards) == 6
    assert documents(tmp_path / "m") == documents(shards[0]) + documents(shards[1])
    assert (tmp_path / "m.bin").read_bytes() == b"".join((tmp_path / f"{n}.bin").read_bytes() for n in "ab")
    assert read_levels(tmp_path / "m", 6).tolist() == [0, 3, 5, 255, 255, 255]


def test_shuffle_depends_on_the_seed_alone(shards, tmp_path):
    merge_shards(tmp_path / "m", shards)
    for name, seed in (("s7", 7), ("again", 7), ("s8", 8)):
        merge_shards(tmp_path / name, shards, seed)
    order = np.random.RandomState(7).permutation(6)
    assert documents(tmp_path / "s7") == [documents(tmp_path / "m")[i] for i in order]
    assert read_levels(tmp_path / "s7", 6).tolist() == read_levels(tmp_path / "m", 6)[order].tolist()
    # The same documents from a single shard come out in the same order.
    merge_shards(tmp_path / "other", [tmp_path / "m"], 7)
    for suffix in (".bin", ".idx", ".levels"):
        contents = [(tmp_path / f"{name}{suffix}").read_bytes() for name in ("s7", "again", "other", "s8")]
        assert contents[0] == contents[1] == contents[2] != contents[3]


def test_refusals_leave_nothing(shards, tmp_path):
    with pytest.raises(PretrainDataError, match="is one of the shards"):
        merge_shards(shards[0], shards)
    with pytest.raises(PretrainDataError, match="no shards to merge"):
        merge_shards(tmp_path / "m", [])
    with IndexedDatasetBuilder(tmp_path / "wide", "int32") as builder:
        builder.add_document([1])
    with pytest.raises(PretrainDataError, match=r"wide\.idx holds int32 tokens, .*a\.idx holds uint16"):
        merge_shards(tmp_path / "m", [*shards, tmp_path / "wide"])
    levels_path(shards[1]).write_bytes(b"\x00")
    with pytest.raises(PretrainDataError, match="levels of 1 documents, the index beside it has 3"):
        merge_shards(tmp_path / "n", shards)
    assert not list(tmp_path.glob("m.*"))


def test_command(shards, tmp_path, capsys):
    assert main([str(tmp_path / "m"), f"{shards[0]}.idx", str(shards[1]), "--shuffle-seed", "3"]) == 0
    assert "6 documents of 2 shards, 20 bytes of tokens" in capsys.readouterr().out
    assert main([str(tmp_path / "n"), str(tmp_path / "none")]) == 1
    assert "none.idx is missing" in capsys.readouterr().err
    assert main([str(tmp_path / "n"), str(shards[0]), "--shuffle-seed", "-1"]) == 2
