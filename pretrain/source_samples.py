"""The shuffled samples of one source: their tokens, and how many of these come from documents of each safety level."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pretrain.blend_file import Blend, BlendSource
from pretrain.errors import PretrainDataError
from pretrain.gpt_indices import EXTRA_TOKEN, build_gpt_indices, plan_epochs
from pretrain.indexed_dataset import IndexedDataset, data_path, index_path
from pretrain.levels import UNKNOWN_LEVEL, read_levels

_PROBES: Final = 64
_PROBE_BYTES: Final = 4096


class SourceSamples:
    """The shards of one source, read as one list of documents, as `wanted` samples or more.

    Raises `PretrainDataError` for files that are missing or broken, that do not hold what the blend file promises, that
    hold less than one sample, or ids outside the vocabulary (of each shard 64 blocks of 4 KiB are looked at).
    """

    def __init__(
        self, folder: Path, source: BlendSource, blend: Blend, sequence_length: int, wanted: int, seed: int
    ) -> None:
        self.name, self._vocabulary_size, self._sequence_length = source.name, blend.vocabulary_size, sequence_length
        self._prefixes = [folder / shard for shard in source.shards]
        self._shards = [IndexedDataset(prefix, blend.dtype) for prefix in self._prefixes]
        self._first_documents = np.cumsum([0] + [len(shard) for shard in self._shards])
        self._lengths = self._document_lengths()
        tokens = int(self._lengths.sum(dtype=np.int64))
        self._check_size(folder, source, tokens)
        for prefix in self._prefixes:
            self._check_probes(prefix, np.dtype(blend.dtype).newbyteorder("<"))
        self._levels = self._document_levels()
        self.plan = plan_epochs(tokens, sequence_length, wanted)
        self._indices = build_gpt_indices(self._lengths, sequence_length, wanted, seed)

    def tokens(self, number: int) -> NDArray[np.int64]:
        """Token ids int64 [sequence_length + 1] of shuffled sample `number`."""
        unshuffled = int(self._indices.shuffle[number])
        position, offset = (int(value) for value in self._indices.starts[unshuffled])
        missing = self._sequence_length + EXTRA_TOKEN
        parts = []
        while missing:
            document = int(self._indices.documents[position])
            shard = int(np.searchsorted(self._first_documents, document, side="right")) - 1
            part = self._shards[shard].read(document - int(self._first_documents[shard]), offset, missing)
            parts.append(part)
            missing -= len(part)
            position, offset = position + 1, 0
        tokens = np.concatenate(parts).astype(np.int64)
        self._check_ids(tokens)
        return tokens

    def level_counts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Input tokens [256] of the shuffled samples `numbers` by level of their document; see `pretrain.levels`."""
        if self._levels is None:
            counts = np.zeros(UNKNOWN_LEVEL + 1, dtype=np.int64)
            counts[UNKNOWN_LEVEL] = len(numbers) * self._sequence_length
            return counts
        unshuffled = self._indices.shuffle[numbers].astype(np.int64)
        first, end = self._indices.starts[unshuffled], self._indices.starts[unshuffled + 1]
        documents = end[:, 0].astype(np.int64) - first[:, 0] + 1
        ends = np.cumsum(documents)
        # Positions of all samples one after the other: a running number, moved to each sample's first position.
        positions = np.arange(documents.sum()) + np.repeat(first[:, 0] - (ends - documents), documents)
        read = self._indices.documents[positions]
        tokens = self._lengths[read].astype(np.int64)
        tokens[ends - 1] = end[:, 1]
        tokens[ends - documents] -= first[:, 1]
        counted = np.bincount(self._levels[read], weights=tokens, minlength=UNKNOWN_LEVEL + 1)
        return counted.astype(np.int64)

    def digest(self) -> str:
        """Hash of each shard's whole index and levels and of 64 blocks of 4 KiB of its data, so that terabytes take seconds."""
        digest = hashlib.sha256()
        for prefix in self._prefixes:
            with index_path(prefix).open("rb") as index:
                shard = hashlib.file_digest(index, "sha256")
            for block in _probes(prefix):
                shard.update(block)
            digest.update(shard.digest())
        if self._levels is not None:
            digest.update(self._levels.tobytes())
        return digest.hexdigest()

    def _document_lengths(self) -> NDArray[np.int32]:
        if len(self._shards) == 1:
            return self._shards[0].sequence_lengths
        return np.concatenate([np.zeros(0, np.int32), *(shard.sequence_lengths for shard in self._shards)])

    def _document_levels(self) -> NDArray[np.uint8] | None:
        parts = [read_levels(prefix, len(shard)) for prefix, shard in zip(self._prefixes, self._shards, strict=True)]
        if all(part is None for part in parts):
            return None
        return np.concatenate(
            [
                np.full(len(shard), UNKNOWN_LEVEL, np.uint8) if part is None else part
                for part, shard in zip(parts, self._shards, strict=True)
            ]
        )

    def _check_size(self, folder: Path, source: BlendSource, tokens: int) -> None:
        if (tokens, len(self._lengths)) != (source.tokens, source.documents):
            raise PretrainDataError(
                f"source {source.name} in {folder} holds {tokens} tokens in {len(self._lengths)} documents, the blend file "
                f"promises {source.tokens} in {source.documents}: shards are missing or of another run; tokenise again"
            )
        if not tokens:
            raise PretrainDataError(
                f"source {source.name} in {folder} is empty; tokenise its texts, or give it weight 0 in the recipe"
            )
        if tokens < self._sequence_length + EXTRA_TOKEN:
            raise PretrainDataError(
                f"source {source.name} in {folder} holds {tokens} tokens in all, less than one sample of "
                f"{self._sequence_length} and its last label; lower seq_length, or give the source weight 0 in the recipe"
            )

    def _check_probes(self, prefix: Path, dtype: np.dtype) -> None:
        for block in _probes(prefix):
            if block:
                self._check_ids(np.frombuffer(block[: len(block) // dtype.itemsize * dtype.itemsize], dtype), prefix)

    def _check_ids(self, tokens: NDArray, prefix: Path | None = None) -> None:
        least, largest = int(tokens.min()), int(tokens.max())
        if largest >= self._vocabulary_size or least < 0:
            where = "" if prefix is None else f" in {data_path(prefix)}"
            raise PretrainDataError(
                f"source {self.name} holds token ids from {least} to {largest}{where}, outside the vocabulary of "
                f"{self._vocabulary_size}: another tokenizer wrote them; tokenise again with that of the blend file"
            )


def _probes(prefix: Path) -> Iterator[bytes]:
    """64 blocks of 4 KiB, evenly spread from the first to the last; each begins at a whole token."""
    size = data_path(prefix).stat().st_size
    with data_path(prefix).open("rb") as data:
        for probe in range(_PROBES):
            data.seek(max(0, size - _PROBE_BYTES) * probe // (_PROBES - 1) // 8 * 8)
            yield data.read(_PROBE_BYTES + 8)
