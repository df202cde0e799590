"""Megatron-core as the judge of our files and indices. Skipped where `megatron-core` is not installed.

To run it: `pip install --no-deps megatron-core==0.16.1` on Python 3.11, in an environment of its own.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from pretrain.blend import blend_index, normalised, samples_per_source
from pretrain.blended_data import BlendedData
from pretrain.data_settings import LossMaskSettings
from pretrain.gpt_indices import build_gpt_indices, plan_epochs
from pretrain.indexed_dataset import DTYPE_OF_CODE, IndexedDataset, IndexedDatasetBuilder
from pretrain.megatron_command import megatron_script
from pretrain.merge_shards import main as merge
from pretrain.merge_shards import merge_shards
from tests.pretrain.test_megatron_command import commands

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
        **{"split": None, **more},
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


def random_case(number):
    """Lengths, sequence length, seed and samples wanted: from less than an epoch to many, short and long documents."""
    random = np.random.default_rng(number)
    lengths = random.integers(int(random.integers(0, 2)), int(random.choice([3, 20, 300])), int(random.integers(1, 80)))
    lengths[0] += 1
    sequence_length = int(random.choice([1, 7, 64, 500]))
    per_epoch = max(1, int(lengths.sum()) // sequence_length)
    wanted = max(1, int(per_epoch * random.choice([0.4, 1.0, 1.3, 1.9, 3.5, 6.0])) + int(random.integers(-1, 2)))
    return lengths.astype(np.int32), sequence_length, int(random.integers(0, 2**32)), wanted


@pytest.mark.parametrize("cases", [range(start, start + 50) for start in range(0, 400, 50)], ids=str)
def test_many_indices_are_bit_identical(tmp_path, cases):
    """Any lengths, seed and number of epochs."""
    from megatron.core.datasets.gpt_dataset import GPTDataset
    from megatron.core.datasets.utils import Split

    with one_rank_group(tmp_path):
        for number in cases:
            lengths, sequence_length, seed, wanted = random_case(number)
            config = configuration(sequence_length, seed, blend_per_split=[(["x"], None), None, None])
            config.path_to_cache = str(tmp_path / str(number))
            prefix = write_ours(tmp_path / f"d{number}", [[1] * length for length in lengths])
            all_documents = np.arange(len(lengths), dtype=np.int32)
            low = megatron.IndexedDataset(prefix)
            theirs = GPTDataset(low, prefix, all_documents, wanted, Split.train, config)
            ours = build_gpt_indices(lengths, sequence_length, wanted, seed)
            for mine, their in zip(
                ours, (theirs.document_index, theirs.sample_index, theirs.shuffle_index), strict=True
            ):
                assert mine.dtype == their.dtype, number
                assert np.array_equal(mine, their), number


@pytest.mark.parametrize("case", range(60))
def test_many_blends_are_bit_identical(case):
    from megatron.core.datasets import helpers

    random = np.random.default_rng(case)
    sources = int(random.choice([1, 2, 3, 5, 12, 20]))
    weights = [np.ones(sources), random.dirichlet(np.full(sources, 0.3)) + 1e-9, random.integers(1, 9, sources)][
        case % 3
    ]
    samples = int(random.choice([1, 40, 4096, 4097, 20_001]))
    their_sources, their_numbers = np.zeros(samples, np.int16), np.zeros(samples, np.int64)
    shares = normalised(normalised(weights))
    helpers.build_blending_indices(their_sources, their_numbers, shares, sources, samples, False)
    ours = blend_index(weights.tolist(), samples)
    assert np.array_equal(ours[0], their_sources)
    assert np.array_equal(ours[1], their_numbers)


def test_merged_shards_are_byte_equal(tmp_path):
    shards = [write_ours(tmp_path / f"s{i}", random_documents(n, 60, seed=i)) for i, n in enumerate((12, 1, 30))]
    merge_shards(tmp_path / "ours", shards)
    builder = megatron.IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for shard in shards:
        builder.add_index(shard)
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"ours{suffix}").read_bytes() == (tmp_path / f"theirs{suffix}").read_bytes()


def test_printed_data_path_gives_the_same_samples_and_mask(recipe):
    """What `--print-megatron` says, built by Megatron: every sample and its loss mask are ours."""
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset
    from megatron.core.datasets.utils import get_blend_from_list

    # 50 iterations of 4 samples: several epochs of the smaller source.
    mask = LossMaskSettings(after_end_of_document=True)
    recipe = recipe.model_copy(update={"loss_mask": mask, "train_iters": 50})
    (run,), merges = commands(megatron_script(recipe))
    for words in merges:
        assert merge(words[3:]) == 0
    folder = recipe.data.parent
    config = configuration(run.seq_length, run.seed, blend=get_blend_from_list(run.data_path), split=run.split)
    config.path_to_cache, config.eod_mask_loss = str(folder / "cache"), run.eod_mask_loss
    samples = run.train_iters * run.global_batch_size
    with one_rank_group(folder):
        theirs, _, _ = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()
        ours = BlendedData.of_recipe(recipe, samples)
        for sample in range(samples):
            item = theirs[sample]
            assert item["tokens"].tolist() == ours.tokens(sample)[:-1].tolist()
            assert item["labels"].tolist() == ours.tokens(sample)[1:].tolist()
            assert item["loss_mask"].tolist() == ours.loss_mask(sample).tolist()


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
