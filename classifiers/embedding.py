"""Linear heads on a text encoder: level, category, and one output for each never-train category."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.decision import Decision, MostProbable
from classifiers.encoder import DEFAULT_PRECISION, EMBEDDED_ENCODER, Embeddings, Encoder
from classifiers.errors import ModelError
from classifiers.rubric import LEVELS, NEVER_TRAIN_CATEGORIES, UNSAFE_CATEGORY_NAMES
from classifiers.score import STORED_DECIMALS, Score, score_from_chunks
from classifiers.weights_file import facts_of

SHIPPED_HEAD = Path(__file__).parent / "weights" / "embedding" / "minilm_head.safetensors"
HEAD_ROWS = {"level": len(LEVELS), "category": len(UNSAFE_CATEGORY_NAMES), "never_train": len(NEVER_TRAIN_CATEGORIES)}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Independent probabilities; stable for any logit."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def read_head(path: Path, encoder_sha256: str, size: int) -> dict[str, np.ndarray]:
    """The head's weights and biases. Raises ModelError for a broken file, or one that was trained on another encoder."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path}: no such head; train one with `python -m classifiers.training.train`")
    try:
        with safe_open(str(path), framework="numpy") as file:
            facts = facts_of(file, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file ({error}); restore it or train it again") from error
    if facts.get("encoder_sha256") != encoder_sha256:
        raise ModelError(
            f"{path}: trained on the encoder {facts.get('encoder')!r}, not on the one loaded; train a head for it"
        )
    expected: dict[str, tuple[int, ...]] = {f"{name}.weight": (rows, size) for name, rows in HEAD_ROWS.items()}
    expected |= {f"{name}.bias": (rows,) for name, rows in HEAD_ROWS.items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        raise ModelError(f"{path}: holds {found}, expected {expected}; train it again")
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise ModelError(f"{path}: holds weights that are not finite; train it again")
    return {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


@dataclass(frozen=True)
class HeadFacts:
    """What a head's file says of itself: sha256 and vector size of the encoder that it was trained on, the adapter of that
    encoder (a file beside it) or None, and how a level is decided from its probabilities."""

    encoder_sha256: str
    size: int
    adapter: Path | None
    decision: Decision | MostProbable


def read_head_facts(path: Path) -> HeadFacts:
    """From the head's file alone. Raises ModelError where it is missing or does not say."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path}: no such head; give the file in the recipe, or train one")
    try:
        with safe_open(str(path), framework="numpy") as file:
            facts = facts_of(file, path)
            size = int(file.get_slice("level.weight").get_shape()[1])
        adapter = path.parent / facts["adapter"] if "adapter" in facts else None
        decision = Decision(tuple(facts["thresholds"])) if "thresholds" in facts else MostProbable()
        return HeadFacts(str(facts["encoder_sha256"]), size, adapter, decision)
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file ({error}); restore it or train it again") from error
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: does not say which encoder it was trained on ({error}); train it again") from error


class EmbeddingHeads:
    """The linear heads on vectors of one encoder."""

    def __init__(self, head_file: Path, encoder_sha256: str, size: int) -> None:
        """Raises ModelError as `read_head` does."""
        self._head = read_head(head_file, encoder_sha256, size)
        self.decision = read_head_facts(head_file).decision

    def score(self, embeddings: Embeddings) -> list[Score]:
        """One score for each document that has a chunk, in order. Vectors are rounded to fp16 first: that is how they
        are kept, so kept vectors and new ones give the same scores."""
        levels, categories, never_train = self.chunk_probabilities(embeddings.vectors)
        starts = np.flatnonzero(np.diff(embeddings.document, prepend=-1)).tolist()
        parts = zip(starts, [*starts[1:], len(embeddings.document)], strict=True) if starts else []
        return [score_from_chunks(levels[a:b], categories[a:b], never_train[a:b], self.decision) for a, b in parts]

    def chunk_probabilities(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the heads say of each vector [chunks, size]: levels [chunks, 6], categories [chunks, 18], never-train
        [chunks, 3]."""
        kept = vectors.astype(np.float16).astype(np.float64)
        return (
            softmax(self._logits("level", kept)),
            softmax(self._logits("category", kept)),
            sigmoid(self._logits("never_train", kept)),
        )

    def chunk_levels(self, level_probabilities: np.ndarray) -> np.ndarray:
        """Level of each chunk, as `score` decides it: [chunks, 6] to [chunks], int."""
        return self.decision.levels(np.round(level_probabilities, STORED_DECIMALS))

    def _logits(self, name: str, vectors: np.ndarray) -> np.ndarray:
        return vectors @ self._head[f"{name}.weight"].T + self._head[f"{name}.bias"]


class EmbeddingClassifier:
    """Scores texts with an encoder and linear heads. Made by `load`."""

    def __init__(self, encoder: Encoder, head_file: Path) -> None:
        self.name = "embedding"
        self._encoder = encoder
        self._heads = EmbeddingHeads(head_file, encoder.weights_sha256, encoder.size)
        self._head_sha256 = hashlib.sha256(head_file.read_bytes()).hexdigest()

    @classmethod
    def load(
        cls,
        encoder: str = EMBEDDED_ENCODER,
        head: Path | None = None,
        threads: int = 1,
        precision: str = DEFAULT_PRECISION,
    ) -> "EmbeddingClassifier":
        """`encoder`: the embedded one, a local folder, or a Hub id; `head` None is the shipped one, for the embedded encoder.

        `precision` is the Encoder's. Raises ModelError where the encoder or the head is missing, broken or do not belong
        together.
        """
        if head is None and encoder != EMBEDDED_ENCODER:
            raise ModelError(
                f"encoder {encoder!r} has no shipped head; train one with `python -m classifiers.training.train`"
            )
        head = SHIPPED_HEAD if head is None else Path(head)
        return cls(Encoder(encoder, threads, precision, read_head_facts(head).adapter), head)

    @property
    def encoder(self) -> Encoder:
        """The encoder whose vectors the heads read."""
        return self._encoder

    @property
    def heads(self) -> EmbeddingHeads:
        """The heads, for callers that encode chunk by chunk."""
        return self._heads

    def embed(self, texts: list[str]) -> Embeddings:
        """The chunk embeddings that the heads read."""
        return self._encoder.embed(texts)

    def score(self, texts: list[str]) -> list[Score]:
        """One score a text, in order; any string gets one (an empty one scores 0)."""
        embeddings = self.embed([text for text in texts if text.strip()])
        scores = iter(self._heads.score(embeddings))
        return [next(scores) if text.strip() else empty_score() for text in texts]

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on: encoder, head, threads, and the versions of the libraries that compute them."""
        return {
            "name": self.name,
            "encoder": self._encoder.name,
            "window": self._encoder.window,
            "threads": self._encoder.threads,
            "precision": self._encoder.precision,
            "sha256": {"encoder": self._encoder.weights_sha256, "head": self._head_sha256},
            "versions": {package: version(package) for package in self._libraries()},
        }

    def _libraries(self) -> tuple[str, ...]:
        compiled = () if self._encoder.precision == DEFAULT_PRECISION else ("openvino",)
        return ("torch", "transformers", "tokenizers", "numpy", *compiled)


def empty_score() -> Score:
    """The score of a text without a word: 0, for certain."""
    certain = np.eye(1, len(LEVELS))
    return score_from_chunks(
        certain, np.zeros((1, len(UNSAFE_CATEGORY_NAMES))), np.zeros((1, len(NEVER_TRAIN_CATEGORIES)))
    )
