"""Megatron-core as the judge of our files and indices. Skipped where `megatron-core` is not installed.

To run it: `pip install --no-deps megatron-core==0.16.1` on Python 3.11, in an environment of its own.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from pretrain.blend import blend_index, samples_per_source
from pretrain.gpt_indices import build_gpt_indices, plan_epochs
from pretrain.indexed_dataset import DTYPE_OF_CODE, IndexedDataset, IndexedDatasetBuilder

megatron = pytest.importorskip("megatron.core.datasets.indexed_dataset", exc_type=ImportError)


def random_documents(count, longest, seed, shortest=1):
    random = np.random.default_rng(seed)
    return [random.integers(0, 49_153, random.integers(shortest, longest)).tolist() for _ in range(count)]


def write_ours(prefix, documents, dtype=np.uint16):
    with IndexedDatasetBuilder(prefix, dtype) as builder:
        for document in documents:
            builder.add_document(document)
    return str(prefix)


@pytest.mark.parametrize("dtype", [d.name for d in DTYPE_OF_CODE.values()])
def test_files_are_byte_equal(tmp_path, dtype):
    import torch

    documents = [[t % 100 for t in document] for document in random_documents(20, 50, seed=1)]
    write_ours(tmp_path / "ours", documents, dtype)
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.dtype(dtype).type)
    for document in documents:
        builder.add_document(torch.tensor(document), [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "theirs.idx").read_bytes()


def test_each_reads_the_other(tmp_path):
    documents = random_documents(15, 40, seed=2)
    theirs = megatron.IndexedDataset(write_ours(tmp_path / "a", documents))
    assert [theirs[i].tolist() for i in range(len(theirs))] == documents
    assert theirs.document_indices.tolist() == IndexedDataset(tmp_path / "a").document_boundaries.tolist()


def configuration(sequence_length, seed, **more):
    from megatron.core.datasets.gpt_dataset import GPTDatasetConfig

    names = {"vocab_size": 49_153, "eod": 0, "pad": -1, "eos": 0, "special_tokens_dict": {"eos": 0}}
    return GPTDatasetConfig(
        random_seed=seed,
        sequence_length=sequence_length,
        tokenizer=SimpleNamespace(**names, unique_identifiers={"class": "none"}),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        split=None,
        **more,
    )


@pytest.mark.parametrize("shortest", [0, 1])
@pytest.mark.parametrize("wanted", [1, 20, 60, 150, 151, 400, 431])
def test_indices_are_bit_identical(tmp_path, wanted, shortest):
    from megatron.core.datasets.gpt_dataset import GPTDataset
    from megatron.core.datasets.utils import Split

    documents = random_documents(40, 90, seed=3, shortest=shortest)
    prefix = write_ours(tmp_path / "a", documents)
    low = megatron.IndexedDataset(prefix)
    config = configuration(13, 1234, blend_per_split=[([prefix], None), None, None], path_to_cache=None)
    config.path_to_cache = str(tmp_path / "cache")
    with one_rank_group(tmp_path):
        theirs = GPTDataset(low, prefix, np.arange(len(documents), dtype=np.int32), wanted, Split.train, config)
    ours = build_gpt_indices(IndexedDataset(prefix).sequence_lengths, 13, wanted, 1234)
    for mine, their in zip(ours, (theirs.document_index, theirs.sample_index, theirs.shuffle_index), strict=True):
        assert mine.dtype == their.dtype
        assert np.array_equal(mine, their)


def test_both_kinds_of_last_epoch_occur_above():
    tokens = sum(len(document) for document in random_documents(40, 90, seed=3))
    kinds = [plan_epochs(tokens, 13, wanted) for wanted in (60, 150, 151, 400, 431)]
    assert any(plan.samples_before_last_epoch is not None for plan in kinds)
    assert any(plan.samples_before_last_epoch is None and plan.epochs > 1 for plan in kinds)


def test_blended_samples_are_equal(tmp_path):
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset

    weights = [0.6, 0.27, 0.1, 0.03]
    counts = [30, 10, 3, 7]
    prefixes = [write_ours(tmp_path / f"s{i}", random_documents(n, 80, seed=i)) for i, n in enumerate(counts)]
    config = configuration(16, 99, blend_per_split=[(prefixes, weights), None, None], path_to_cache=str(tmp_path / "c"))
    with one_rank_group(tmp_path):
        train, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, [500, 0, 0], lambda: True, config).build()
        sources, numbers = blend_index(weights, 500)
        assert np.array_equal(train.dataset_index, sources)
        assert np.array_equal(train.dataset_sample_index, numbers)
        assert [len(d.shuffle_index) for d in train.datasets] == [
            plan_epochs(int(IndexedDataset(p).sequence_lengths.sum()), 16, n).samples
            for p, n in zip(prefixes, samples_per_source(weights, 500), strict=True)
        ]


class one_rank_group:  # noqa: N801 - reads as a statement
    """A gloo group of one process: Megatron asks for its rank when it writes its cache."""

    def __init__(self, folder):
        self.store = folder / "store"

    def __enter__(self):
        import torch

        torch.distributed.init_process_group("gloo", init_method=f"file://{self.store}", rank=0, world_size=1)

    def __exit__(self, *_):
        import torch

        torch.distributed.destroy_process_group()
