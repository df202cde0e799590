"""Megatron's indexed data set: token ids in `PREFIX.bin`, lengths, offsets and document boundaries in `PREFIX.idx`.

Byte layout of the index (little-endian): 9 bytes `MMIDIDX\\0\\0`, uint64 version 1, uint8 dtype code, uint64 number of
sequences S, uint64 number of document boundaries D, int32[S] lengths in tokens, int64[S] byte offsets, int64[D]
boundaries as sequence indices from 0 to S. The data file is the raw ids of all sequences, back to back.
"""

import errno
import os
import shutil
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from pretrain.atomic_files import sync_folder, temporary_name
from pretrain.errors import PretrainDataError

MAGIC: Final = b"MMIDIDX\x00\x00"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<9sQBQQ")
_LONGEST_SEQUENCE: Final = 2**31 - 1
_COPY_BYTES: Final = 1 << 24

# The dtype codes of the format; one truth for reader and writer.
DTYPE_OF_CODE: Final[dict[int, np.dtype]] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f4"),
    8: np.dtype("<u2"),
}
_CODE_OF_DTYPE: Final = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}


def dtype_for_vocabulary(vocabulary_size: int) -> np.dtype:
    """Megatron's rule: uint16 for fewer than 65,500 token ids, else int32."""
    if vocabulary_size < 1:
        raise PretrainDataError(f"a vocabulary needs at least one token, not {vocabulary_size}")
    return np.dtype("<u2") if vocabulary_size < 65_500 else np.dtype("<i4")


def _supported_dtype(dtype: DTypeLike) -> np.dtype:
    wanted = np.dtype(dtype).newbyteorder("<")
    if wanted not in _CODE_OF_DTYPE:
        names = ", ".join(known.name for known in DTYPE_OF_CODE.values())
        raise PretrainDataError(f"an indexed data set cannot hold {wanted.name} tokens; the format knows {names}")
    return wanted


def index_path(prefix: str | Path) -> Path:
    """`PREFIX.idx`."""
    return Path(f"{prefix}.idx")


def data_path(prefix: str | Path) -> Path:
    """`PREFIX.bin`."""
    return Path(f"{prefix}.bin")


class IndexedDatasetBuilder:
    """Writes `PREFIX.bin` and `PREFIX.idx`; neither has its final name before `finalize()`, the index comes last.

    Memory: 4 bytes a sequence and 8 a document. As a context manager it finalizes on success and leaves nothing behind
    on an exception. The caller appends the end-of-document token; nothing is added here.
    """

    def __init__(self, prefix: str | Path, dtype: DTypeLike) -> None:
        self._dtype = _supported_dtype(dtype)
        self._index_path, self._data_path = index_path(prefix), data_path(prefix)
        self._lengths = array("i")
        self._boundaries = array("q", [0])
        self._data_path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary_data = temporary_name(self._data_path)
        self._data = self._temporary_data.open("wb")

    def add_sequence(self, tokens: ArrayLike) -> None:
        """Append one sequence (1-D, may be empty) to the open document.

        Raises `PretrainDataError` for ids that the dtype cannot hold, instead of wrapping them around.
        """
        values = np.asarray(tokens)
        if values.ndim != 1 or values.size > _LONGEST_SEQUENCE:
            raise PretrainDataError(
                f"{self._data_path}: sequence {len(self._lengths)} has shape {values.shape}; "
                f"expected one dimension of at most {_LONGEST_SEQUENCE} tokens"
            )
        if values.size and not self._holds(values):
            raise PretrainDataError(
                f"{self._data_path}: sequence {len(self._lengths)} holds ids from {values.min()} to {values.max()}, which "
                f"do not fit {self._dtype.name}; choose the dtype with dtype_for_vocabulary(vocabulary_size)"
            )
        self._data.write(values.astype(self._dtype).tobytes())
        self._lengths.append(values.size)

    def end_document(self) -> None:
        """Close the open document after the sequences added so far."""
        self._boundaries.append(len(self._lengths))

    def add_document(self, tokens: ArrayLike) -> None:
        """One document of one sequence."""
        self.add_sequence(tokens)
        self.end_document()

    def add_index(self, prefix: str | Path) -> None:
        """Append all documents of the data set at `prefix`, as they are.

        Raises `PretrainDataError` where that one is broken or holds another dtype.
        """
        other = IndexedDataset(prefix, self._dtype)
        before = len(self._lengths)
        self._lengths.frombytes(other.sequence_lengths.astype(np.int32).tobytes())
        self._boundaries.frombytes((other.document_boundaries[1:] + before).astype(np.int64).tobytes())
        with data_path(prefix).open("rb") as data:
            shutil.copyfileobj(data, self._data, _COPY_BYTES)

    def finalize(self) -> None:
        """Write the index and give both files their final names, the index last.

        Raises `PretrainDataError` when the last sequences belong to no document.
        """
        if self._boundaries[-1] != len(self._lengths):
            raise PretrainDataError(f"{self._index_path}: the last document was not ended; call end_document() first")
        self._data.flush()
        os.fsync(self._data.fileno())
        self._data.close()
        temporary_index = temporary_name(self._index_path)
        with temporary_index.open("wb") as index:
            index.write(self._index_bytes())
            index.flush()
            os.fsync(index.fileno())
        # An index of an earlier run must never stand beside the new data.
        self._index_path.unlink(missing_ok=True)
        self._temporary_data.replace(self._data_path)
        temporary_index.replace(self._index_path)
        sync_folder(self._index_path.parent)

    def discard(self) -> None:
        """Remove the temporary data; nothing has been written under a final name."""
        self._data.close()
        self._temporary_data.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.finalize()
        else:
            self.discard()

    def _holds(self, values: NDArray) -> bool:
        if self._dtype.kind == "f":
            return True
        if values.dtype.kind not in "iub":
            return False
        limits = np.iinfo(self._dtype)
        return int(values.min()) >= limits.min and int(values.max()) <= limits.max

    def _index_bytes(self) -> bytes:
        lengths = np.frombuffer(self._lengths, dtype=np.int32) if self._lengths else np.zeros(0, np.int32)
        offsets = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1].astype(np.int64) * self._dtype.itemsize, out=offsets[1:])
        header = _HEADER.pack(MAGIC, VERSION, _CODE_OF_DTYPE[self._dtype], len(lengths), len(self._boundaries))
        boundaries = np.frombuffer(self._boundaries, dtype=np.int64)
        return b"".join(
            [
                header,
                lengths.astype("<i4").tobytes(),
                offsets.astype("<i8").tobytes(),
                boundaries.astype("<i8").tobytes(),
            ]
        )


class IndexedDataset:
    """Read-only view on `PREFIX.bin` and `PREFIX.idx` through memory maps; opening costs no pass over the data.

    `dataset[i]` is the i-th sequence as a read-only array of `dtype`. `sequence_lengths` is int32 [S], in tokens;
    `document_boundaries` int64 [documents + 1], as sequence indices. Raises `PretrainDataError` for a missing file, a
    wrong magic or version, an index or data file of another size than the index says, and, where `dtype` is given, for
    tokens of another dtype.
    """

    def __init__(self, prefix: str | Path, dtype: DTypeLike | None = None) -> None:
        self._index_path, self._data_path = index_path(prefix), data_path(prefix)
        for path in (self._index_path, self._data_path):
            if not path.is_file():
                raise PretrainDataError(f"{path} is missing; an indexed data set is a .bin and an .idx of one prefix")
        self.dtype, sequences, boundaries = self._read_header()
        if dtype is not None and _supported_dtype(dtype) != self.dtype:
            raise PretrainDataError(
                f"{self._index_path} holds {self.dtype.name} tokens, {np.dtype(dtype).name} was expected; "
                "tokenise again, or correct the dtype in the blend file"
            )
        index = _mapped(self._index_path, np.dtype(np.uint8))
        # Views keep the map alive through their base, so they outlive this object safely.
        at = _HEADER.size
        self.sequence_lengths: NDArray[np.int32] = index[at : at + 4 * sequences].view("<i4")
        at += 4 * sequences
        self._offsets: NDArray[np.int64] = index[at : at + 8 * sequences].view("<i8")
        at += 8 * sequences
        self.document_boundaries: NDArray[np.int64] = index[at : at + 8 * boundaries].view("<i8")
        self._check_sizes()
        # An empty file cannot be mapped.
        empty = self._data_path.stat().st_size == 0
        self._data = np.zeros(0, self.dtype) if empty else _mapped(self._data_path, self.dtype)

    def __len__(self) -> int:
        return len(self.sequence_lengths)

    def __iter__(self) -> Iterator[NDArray]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, index: int) -> NDArray:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)} in {self._data_path}")
        return self.read(index, 0, int(self.sequence_lengths[index]))

    def read(self, index: int, start: int, count: int) -> NDArray:
        """`count` tokens of sequence `index` from its token `start`, clipped at the sequence's end."""
        first = int(self._offsets[index]) // self.dtype.itemsize
        end = min(start + count, int(self.sequence_lengths[index]))
        return np.asarray(self._data[first + start : first + end])

    def _read_header(self) -> tuple[np.dtype, int, int]:
        with self._index_path.open("rb") as index:
            head = index.read(_HEADER.size)
        if not head.startswith(MAGIC):
            raise PretrainDataError(f"{self._index_path} is no Megatron index: it does not begin with {MAGIC!r}")
        if len(head) < _HEADER.size:
            raise PretrainDataError(f"{self._index_path} is truncated: {len(head)} bytes, shorter than its header")
        _, version, code, sequences, boundaries = _HEADER.unpack(head)
        if version != VERSION:
            raise PretrainDataError(f"{self._index_path} has version {version}; version {VERSION} is read here")
        if code not in DTYPE_OF_CODE:
            raise PretrainDataError(f"{self._index_path} has dtype code {code}; the format knows 1 to 8")
        expected = _HEADER.size + 12 * sequences + 8 * boundaries
        size = self._index_path.stat().st_size
        if size < expected:
            raise PretrainDataError(f"{self._index_path} is truncated: {size} bytes, its header promises {expected}")
        if size > expected:
            raise PretrainDataError(
                f"{self._index_path} has {size - expected} bytes after the document boundaries; "
                "multimodal data sets are not read here"
            )
        return DTYPE_OF_CODE[code], sequences, boundaries

    def _check_sizes(self) -> None:
        sequences = len(self)
        if (
            len(self.document_boundaries) == 0
            or self.document_boundaries[0] != 0
            or self.document_boundaries[-1] != sequences
        ):
            raise PretrainDataError(f"{self._index_path}: the document boundaries do not run from 0 to {sequences}")
        promised = 0
        if sequences:
            promised = int(self._offsets[-1]) + int(self.sequence_lengths[-1]) * self.dtype.itemsize
        size = self._data_path.stat().st_size
        if size != promised:
            what = "truncated" if size < promised else "longer than its index"
            raise PretrainDataError(
                f"{self._data_path} is {what}: {size} bytes, {self._index_path.name} promises {promised}; write both again"
            )


def _mapped(path: Path, dtype: np.dtype) -> NDArray:
    """The file as a read-only array. Raises PretrainDataError where this process may have no more files or maps."""
    try:
        try:
            return np.memmap(path, dtype=dtype, mode="r")
        except OSError as error:
            # A map of Python's keeps its file open, and many systems allow 1,024 of them until a process asks for more.
            if error.errno != errno.EMFILE or not _allow_more_open_files():
                raise
            return np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENOMEM):
            raise
        raise PretrainDataError(
            f"{path} cannot be mapped ({error.strerror}): each shard takes two memory maps and two open files, and this process "
            "has as many as the system allows (ulimit -Hn; vm.max_map_count); merge shards with "
            "python -m pretrain.merge_shards, or raise the limit"
        ) from error


def _allow_more_open_files() -> bool:
    """Raises this process's limit as far as it may itself; False where it is there already."""
    import resource

    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == most:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return True
