"""Chunk embeddings as they are kept beside a corpus (fp16), and the heads that score them without the encoder."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.embedding import SHIPPED_HEAD, EmbeddingHeads, empty_score, read_head_facts
from classifiers.encoder import Embeddings
from classifiers.errors import DataError
from classifiers.score import Score

_STORED = np.dtype("<f2")


def pack_vectors(vectors: np.ndarray) -> bytes:
    """[chunks, size] as little-endian fp16, row after row. Exact for vectors that `EmbeddingHeads` has rounded."""
    return vectors.astype(_STORED).tobytes()


def unpack_vectors(stored: bytes, n_chunks: int, size: int) -> np.ndarray:
    """What `pack_vectors` packed, as float32. Raises DataError where the bytes are of another shape."""
    if len(stored) != n_chunks * size * _STORED.itemsize:
        raise DataError(
            f"{len(stored)} bytes of kept embeddings: expected {n_chunks} chunks of {size} fp16 values; "
            "rerun the stage embed"
        )
    return np.frombuffer(stored, dtype=_STORED).reshape(n_chunks, size).astype(np.float32)


class KeptEmbeddingsClassifier:
    """Scores documents from their kept vectors, as `EmbeddingClassifier` scores their texts; loads no encoder."""

    def __init__(self, head: Path | None = None) -> None:
        """`head` None is the shipped one. Raises ModelError where it is missing or broken."""
        path = SHIPPED_HEAD if head is None else head
        facts = read_head_facts(path)
        self._size = facts.size
        self._heads = EmbeddingHeads(path, facts.encoder_sha256, facts.size)
        self.head_sha256 = hashlib.sha256(path.read_bytes()).hexdigest()

    def score(self, rows: list[dict[str, Any]]) -> list[Score]:
        """One score for each row (`n_chunks`, `vectors`), in order; a row without chunks is an empty text and scores 0."""
        parts = [unpack_vectors(row["vectors"], row["n_chunks"], self._size) for row in rows]
        document = np.repeat(np.arange(len(rows)), [row["n_chunks"] for row in rows])
        vectors = np.concatenate(parts) if parts else np.zeros((0, self._size), dtype=np.float32)
        scores = iter(self._heads.score(Embeddings(vectors, document)))
        return [next(scores) if row["n_chunks"] else empty_score() for row in rows]
