"""The blend file of the pipeline, opened: the i-th training sample of the run, and a fingerprint of the data."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pretrain.blend import blend_index, samples_per_source
from pretrain.errors import PretrainDataError
from pretrain.gpt_indices import EXTRA_TOKEN, build_gpt_indices, plan_epochs
from pretrain.indexed_dataset import IndexedDataset, data_path, index_path

_PROBES: Final = 64
_PROBE_BYTES: Final = 4096


class BlendSource(BaseModel):
    """One source: `shards` are prefixes of `.bin/.idx` files, relative to the blend file's folder."""

    model_config = ConfigDict(frozen=True)

    name: str
    weight: float = Field(gt=0)
    tokens: int = Field(ge=1)
    documents: int = Field(ge=1)
    shards: list[str] = Field(min_length=1)


class Blend(BaseModel):
    """What the pipeline's `tokenise` stage wrote. `vocabulary_size` counts the tag; `tokenizer` is a folder's name."""

    model_config = ConfigDict(frozen=True)

    tokenizer: str
    vocabulary_size: int = Field(ge=1)
    tag_token: str
    tag_token_id: int = Field(ge=0)
    end_of_document_id: int = Field(ge=0)
    dtype: str
    sources: list[BlendSource] = Field(min_length=1)


def load_blend(path: Path) -> Blend:
    """The blend file at `path`. Raises `PretrainDataError` that names the file and each wrong key."""
    try:
        blend = Blend.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PretrainDataError(
            f"there is no blend file at {path}; run the pipeline's tokenise stage, or set data: RUN/tokens/blend.json"
        ) from None
    except ValidationError as error:
        wrong = [f"  {'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}" for problem in error.errors()]
        raise PretrainDataError(f"{path} is no blend file:\n" + "\n".join(wrong)) from error
    for name in ("tag_token_id", "end_of_document_id"):
        if getattr(blend, name) >= blend.vocabulary_size:
            raise PretrainDataError(
                f"{path}: {name} {getattr(blend, name)} lies outside the vocabulary of {blend.vocabulary_size}"
            )
    return blend


class SourceSamples:
    """The shuffled samples of one source, whose shards are read as one list of documents."""

    def __init__(
        self, folder: Path, source: BlendSource, dtype: str, sequence_length: int, wanted: int, seed: int
    ) -> None:
        self._shards = [IndexedDataset(folder / shard, dtype) for shard in source.shards]
        lengths = np.concatenate([shard.sequence_lengths for shard in self._shards])
        tokens = int(lengths.sum(dtype=np.int64))
        if (tokens, len(lengths)) != (source.tokens, source.documents):
            raise PretrainDataError(
                f"source {source.name} holds {tokens} tokens in {len(lengths)} documents, the blend file promises "
                f"{source.tokens} in {source.documents}: shards are missing or of another run; tokenise again"
            )
        self._first_documents = np.cumsum([0] + [len(shard) for shard in self._shards])
        self._sequence_length = sequence_length
        self._indices = build_gpt_indices(lengths, sequence_length, wanted, seed)
        self.plan = plan_epochs(tokens, sequence_length, wanted)

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
        return np.concatenate(parts).astype(np.int64)


class BlendedData:
    """Sample `i` of the run, for `i` below `samples`. Raises `PretrainDataError` for files that do not fit the blend."""

    def __init__(self, path: Path, sequence_length: int, samples: int, seed: int) -> None:
        self.blend = load_blend(path)
        self.folder = path.parent
        self._sequence_length, self._seed = sequence_length, seed
        weights = [source.weight for source in self.blend.sources]
        self._sources = [
            SourceSamples(self.folder, source, self.blend.dtype, sequence_length, wanted, seed)
            for source, wanted in zip(self.blend.sources, samples_per_source(weights, samples), strict=True)
        ]
        self._source_of, self._number_of = blend_index(weights, samples)

    def tokens(self, sample: int) -> NDArray[np.int64]:
        """Token ids int64 [sequence_length + 1]: the first are the inputs, shifted by one the labels."""
        source = int(self._source_of[sample])
        tokens = self._sources[source].tokens(int(self._number_of[sample]))
        if int(tokens.max()) >= self.blend.vocabulary_size or int(tokens.min()) < 0:
            raise PretrainDataError(
                f"source {self.blend.sources[source].name} holds token ids from {tokens.min()} to {tokens.max()}, outside "
                f"the vocabulary of {self.blend.vocabulary_size}; tokenise again with the tokenizer of the blend file"
            )
        return tokens

    def tokens_by_source(self, samples: range) -> dict[str, int]:
        """How many training tokens of each source the given samples hold."""
        counts = np.bincount(self._source_of[samples.start : samples.stop], minlength=len(self._sources))
        return {
            source.name: int(count) * self._sequence_length
            for source, count in zip(self.blend.sources, counts, strict=True)
        }

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """What the order and the content of the samples depend on, as readable `what: value` pairs.

        Of each shard the whole index and 64 blocks of 4 KiB of the data are hashed, so that opening a corpus of
        terabytes stays a matter of seconds.
        """
        facts = {
            "seed": str(self._seed),
            "seq_length": str(self._sequence_length),
            "dtype": self.blend.dtype,
            "vocabulary_size": str(self.blend.vocabulary_size),
        }
        for source, samples in zip(self.blend.sources, self._sources, strict=True):
            facts[f"{source.name} weight"] = repr(source.weight)
            facts[f"{source.name} repetition"] = _describe(samples.plan.epochs, samples.plan.samples_before_last_epoch)
            digest = hashlib.sha256()
            for shard in source.shards:
                digest.update(_shard_digest(self.folder / shard))
            facts[f"{source.name} files"] = digest.hexdigest()
        return facts


def _describe(epochs: int, samples_before_last_epoch: int | None) -> str:
    return f"{epochs} epochs" + ("" if samples_before_last_epoch is None else ", the last shuffled apart")


def _shard_digest(prefix: Path) -> bytes:
    with index_path(prefix).open("rb") as index:
        digest = hashlib.file_digest(index, "sha256")
    size = data_path(prefix).stat().st_size
    with data_path(prefix).open("rb") as data:
        for probe in range(_PROBES):
            data.seek(max(0, size - _PROBE_BYTES) * probe // (_PROBES - 1))
            digest.update(data.read(_PROBE_BYTES))
    return digest.digest()
