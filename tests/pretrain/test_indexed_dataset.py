"""The file format: golden bytes, round trips, clear errors, and nothing half-written under a final name."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.errors import PretrainDataError
from pretrain.indexed_dataset import IndexedDataset, IndexedDatasetBuilder, dtype_for_vocabulary


def write(prefix, documents, dtype=np.uint16):
    with IndexedDatasetBuilder(prefix, dtype) as builder:
        for document in documents:
            builder.add_document(document)
    return prefix


def test_golden_bytes(tmp_path):
    write(tmp_path / "a", [[1, 2, 3], [65535]])
    assert (tmp_path / "a.bin").read_bytes() == b"\x01\x00\x02\x00\x03\x00\xff\xff"
    assert (tmp_path / "a.idx").read_bytes() == (
        b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, 8, 2, 3) + struct.pack("<2i2q3q", 3, 1, 0, 6, 0, 1, 2)
    )
    assert (tmp_path / "a.idx").stat().st_size == 34 + 8 + 20 * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx"]


@settings(max_examples=25, deadline=None)
@given(
    documents=st.lists(st.lists(st.lists(st.integers(0, 60_000), max_size=9), min_size=1, max_size=3), max_size=8),
    dtype=st.sampled_from(["uint16", "int32", "int64"]),
)
def test_round_trip(tmp_path_factory, documents, dtype):
    prefix = tmp_path_factory.mktemp("round") / "x"
    with IndexedDatasetBuilder(prefix, dtype) as builder:
        for document in documents:
            for sequence in document:
                builder.add_sequence(sequence)
            builder.end_document()
    dataset = IndexedDataset(prefix, dtype)
    sequences = [sequence for document in documents for sequence in document]
    assert [dataset[i].tolist() for i in range(len(dataset))] == sequences
    assert dataset.sequence_lengths.tolist() == [len(sequence) for sequence in sequences]
    assert dataset.document_boundaries.tolist() == np.cumsum([0] + [len(d) for d in documents]).tolist()
    assert all(dataset[i].dtype == np.dtype(dtype) for i in range(len(dataset)))


def test_views_outlive_the_data_set(tmp_path):
    write(tmp_path / "a", [[1, 2, 3], [4]])
    assert IndexedDataset(tmp_path / "a").sequence_lengths.tolist() == [3, 1]
    assert IndexedDataset(tmp_path / "a")[-1].tolist() == [4]
    with pytest.raises(IndexError, match="sequence 2 of 2"):
        IndexedDataset(tmp_path / "a")[2]


def test_dtype_for_vocabulary():
    assert dtype_for_vocabulary(49_153) == np.uint16
    assert dtype_for_vocabulary(65_499) == np.uint16
    assert dtype_for_vocabulary(65_500) == np.int32
    with pytest.raises(PretrainDataError, match="at least one token"):
        dtype_for_vocabulary(0)


@pytest.mark.parametrize("tokens", [[-1], [65_536], [1.5], [[1, 2]]])
def test_builder_refuses_what_the_file_cannot_hold(tmp_path, tokens):
    with pytest.raises(PretrainDataError, match="sequence 0"):
        write(tmp_path / "a", [tokens])
    assert list(tmp_path.iterdir()) == []


def test_builder_refuses_an_unknown_dtype_and_an_open_document(tmp_path):
    with pytest.raises(PretrainDataError, match="cannot hold uint32"):
        IndexedDatasetBuilder(tmp_path / "a", np.uint32)
    builder = IndexedDatasetBuilder(tmp_path / "a", np.uint16)
    builder.add_sequence([1])
    with pytest.raises(PretrainDataError, match="end_document"):
        builder.finalize()
    builder.discard()
    assert list(tmp_path.iterdir()) == []


def test_reader_names_what_is_wrong(tmp_path):
    prefix = write(tmp_path / "a", [[1, 2, 3], [4]])
    index, data = (tmp_path / "a.idx"), (tmp_path / "a.bin")
    good_index, good_data = index.read_bytes(), data.read_bytes()

    def broken(message, new_index=good_index, new_data=good_data, dtype=None):
        index.write_bytes(new_index)
        data.write_bytes(new_data)
        with pytest.raises(PretrainDataError, match=message):
            IndexedDataset(prefix, dtype)

    broken("no Megatron index", b"PARQUET\x00\x00" + good_index[9:])
    broken("has version 2", good_index[:9] + struct.pack("<Q", 2) + good_index[17:])
    broken("dtype code 9", good_index[:17] + b"\x09" + good_index[18:])
    broken("shorter than its header", good_index[:30])
    broken("truncated: .* its header promises", good_index[:-1])
    broken("multimodal", good_index + b"\x00\x00")
    broken("do not run from 0 to 2", good_index[:-8] + struct.pack("<q", 1))
    broken("a.bin is truncated: 6 bytes", new_data=good_data[:-2])
    broken("a.bin is longer", new_data=good_data + b"\x00")
    broken("holds uint16 tokens, int32 was expected", dtype=np.int32)
    data.unlink()
    with pytest.raises(PretrainDataError, match=r"a\.bin is missing"):
        IndexedDataset(prefix)


def test_a_killed_writer_leaves_no_final_name(tmp_path):
    code = (
        "import os, signal, sys; from pretrain.indexed_dataset import IndexedDatasetBuilder as B\n"
        "b = B(sys.argv[1], 'uint16'); b.add_document(range(60000)); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False).returncode == -9
    assert not (tmp_path / "a.bin").exists()
    assert not (tmp_path / "a.idx").exists()
    write(tmp_path / "a", [[7]])
    assert IndexedDataset(tmp_path / "a")[0].tolist() == [7]


def test_import_needs_no_torch():
    code = "import sys, pretrain.indexed_dataset; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (512, 512)])
def test_more_shards_than_the_system_allows_open_files(tmp_path, soft, hard):
    with IndexedDatasetBuilder(tmp_path / "one", np.uint16) as builder:
        builder.add_document([1, 2, 3])
    code = (
        "import resource, sys\nfrom pretrain.indexed_dataset import IndexedDataset\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]), int(sys.argv[3])))\n"
        "kept = []\ntry:\n    while True:\n        kept.append(IndexedDataset(sys.argv[1]))\n"
        "except Exception as error:\n    count = len(kept)\n    kept.clear()\n    print(count, error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "one"), str(soft), str(hard)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    count, _, message = run.stdout.partition(" ")
    assert hard / 2 - 20 < int(count) <= hard / 2
    assert "cannot be mapped (Too many open files)" in message and "python -m pretrain.merge_shards" in message


def test_no_room_for_another_map(tmp_path):
    with IndexedDatasetBuilder(tmp_path / "one", np.uint16) as builder:
        builder.add_document(np.zeros(40 << 20, np.uint16))
    code = (
        "import re, resource, sys\nfrom pretrain.indexed_dataset import IndexedDataset\n"
        "used = int(re.search(r'VmSize:\\s+(\\d+)', open('/proc/self/status').read())[1]) << 10\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20),) * 2)\n"
        "try:\n    IndexedDataset(sys.argv[1])\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "one")], capture_output=True, text=True, timeout=300
    )
    assert (
        run.stdout.startswith("PretrainDataError") and "one.bin cannot be mapped (Cannot allocate memory)" in run.stdout
    )
