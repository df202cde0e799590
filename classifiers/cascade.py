"""The calibrated cascade: fastText, then a gate for each chunk, then the encoder on what passes, then the judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.calibration_file import Calibration, load_calibration
from classifiers.cascade_rules import BOUNDARIES, asks_whole, embedding_order, judge_is_asked
from classifiers.chunk_gate import GATE_FILE, ChunkGate
from classifiers.embedding import EmbeddingClassifier
from classifiers.ensemble import combine
from classifiers.fasttext_classifier import FastTextClassifier
from classifiers.identity import embedding_identity, fasttext_identity
from classifiers.score import Score, score_from_chunks

CALIBRATION_FILE = "calibration.json"
STAGES = ("fasttext", "embedding", "judge")  # the values of `stage_reached`, in the order in which they are asked

Judge = Callable[[list[str]], Sequence[Score | None]]


@dataclass(frozen=True)
class CascadeScore(Score):
    """The ensemble's score over what was asked; `stage_reached` is the last of `STAGES` that was.

    `by`: the score of each classifier; None means "not asked" (or, of the judge, no valid answer), never 0.
    """

    stage_reached: str = STAGES[0]
    by: dict[str, Score | None] = field(default_factory=dict)


def cascade_identity(
    fasttext_weights: Path | None, encoder: str, head: Path | None, precision: str, gate_sha256: str
) -> dict[str, Any]:
    """What a calibration holds for: the weights of both classifiers and of the gate. No library versions, and no name of the
    encoder, which may be a folder that moves: its hash is in the head's file and in the gate's."""
    embedding = {**embedding_identity(encoder, head), "precision": precision}
    del embedding["encoder"]
    return {
        "fasttext": fasttext_identity(fasttext_weights),
        "embedding": embedding,
        "gate": {"sha256": gate_sha256},
    }


def stage_reached(by: dict[str, Score | None]) -> str:
    """The last of `STAGES` that gave a score."""
    return max((name for name, score in by.items() if score is not None), key=STAGES.index, default=STAGES[0])


class GatedEmbedding:
    """The embedding classifier behind the gate of each chunk. What a document gets depends on nothing but the document."""

    def __init__(self, embedding: EmbeddingClassifier, gate: ChunkGate, calibration: Calibration) -> None:
        self.embedding, self.gate, self.calibration = embedding, gate, calibration

    @classmethod
    def load(
        cls,
        folder: Path,
        embedding: EmbeddingClassifier,
        fasttext_weights: Path | None = None,
        head: Path | None = None,
    ) -> "GatedEmbedding":
        """From a folder with the gate and its calibration, made for these weights (None: the shipped ones).

        Raises ModelError, DataError; IdentityError where the calibration was made for other weights.
        """
        encoder = embedding.encoder
        gate = ChunkGate(folder / GATE_FILE, encoder.weights_sha256)
        identity = cascade_identity(fasttext_weights, encoder.name, head, encoder.precision, gate.sha256)
        return cls(embedding, gate, load_calibration(folder / CALIBRATION_FILE, identity))

    def score(self, texts: list[str], first: Sequence[Score | None]) -> list[Score | None]:
        """One score a text, over the chunks that pass; None for a document that stops at the gate.

        `first`: the first classifier's scores. `n_chunks` of a score counts the chunks that were embedded.
        """
        return [self._score_one(text, score) for text, score in zip(texts, first, strict=True)]

    def _score_one(self, text: str, first: Score | None) -> Score | None:
        if not text.strip():
            return None
        windows = self.embedding.encoder.windows(text)
        level = first.score if first else 0
        gate = self.gate.scores(windows)
        chunks, queue = embedding_order(gate, self.calibration.thresholds, level, asks_whole(first))
        rows = dict(zip(chunks, self._read(windows, chunks), strict=True))
        level = max([level, *(int(self.embedding.heads.chunk_levels(part[0])[0]) for part in rows.values())])
        for chunk in queue:
            if level >= BOUNDARIES[0]:
                break
            (rows[chunk],) = self._read(windows, [chunk])
            level = max(level, int(self.embedding.heads.chunk_levels(rows[chunk][0])[0]))
        if not rows:
            return None
        levels, categories, never_train = (
            np.concatenate(parts) for parts in zip(*(rows[chunk] for chunk in sorted(rows)), strict=True)
        )
        return score_from_chunks(levels, categories, never_train, self.embedding.heads.decision)

    def _read(self, windows: list[list[int]], chunks: list[int]) -> list[tuple[np.ndarray, ...]]:
        """What the heads say of these chunks, each with one row."""
        if not chunks:
            return []
        vectors = self.embedding.encoder.embed_windows([windows[chunk] for chunk in chunks])
        parts = self.embedding.heads.chunk_probabilities(vectors)
        return [tuple(part[row : row + 1] for part in parts) for row in range(len(chunks))]


class CascadeClassifier:
    """Scores texts with as little of the encoder and the judge as the calibration allows. Made by `load`."""

    name = "cascade"

    def __init__(
        self, fasttext: FastTextClassifier, gated: GatedEmbedding, judge: Judge | None = None, judge_band: float = 0.0
    ) -> None:
        """`judge` is asked about documents whose embedding score leaves score >= 1 or >= 3 within `judge_band` of the
        threshold that decides it."""
        self._fasttext, self._gated, self._judge, self._band = fasttext, gated, judge, judge_band

    @classmethod
    def load(
        cls,
        folder: Path,
        embedding: EmbeddingClassifier | None = None,
        fasttext_weights: Path | None = None,
        head: Path | None = None,
        judge: Judge | None = None,
        judge_band: float = 0.0,
    ) -> "CascadeClassifier":
        """`folder` holds the gate and its calibration; `embedding` None is the shipped one. Raises as `GatedEmbedding.load`."""
        loaded = EmbeddingClassifier.load(head=head) if embedding is None else embedding
        gated = GatedEmbedding.load(folder, loaded, fasttext_weights, head)
        return cls(FastTextClassifier.load(fasttext_weights), gated, judge, judge_band)

    def score(self, texts: list[str]) -> list[CascadeScore]:
        """One score a text, in order; any string gets one. A document that stops at the gate has its fastText score."""
        first = self._fasttext.score(texts)
        embedded = self._gated.score(texts, first)
        judged = self._ask_judge(texts, embedded)
        return [
            cascade_score({"fasttext": a, "embedding": b, "judge": c})
            for a, b, c in zip(first, embedded, judged, strict=True)
        ]

    def _ask_judge(self, texts: list[str], embedded: list[Score | None]) -> list[Score | None]:
        answers: list[Score | None] = [None] * len(texts)
        if self._judge is None:
            return answers
        decision = self._gated.embedding.heads.decision
        asked = [index for index, score in enumerate(embedded) if judge_is_asked(score, decision, self._band)]
        if asked:
            for index, score in zip(asked, self._judge([texts[index] for index in asked]), strict=True):
                answers[index] = score
        return answers

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on: the calibration's weights and thresholds, and the classifiers' own fingerprints."""
        return {
            "name": self.name,
            "fasttext": self._fasttext.fingerprint(),
            "embedding": self._gated.embedding.fingerprint(),
            "gate": self._gated.gate.sha256,
            "thresholds": vars(self._gated.calibration.thresholds),
            "judge_band": self._band if self._judge else None,
        }


def cascade_score(by: dict[str, Score | None]) -> CascadeScore:
    """The maximum over what was asked, with how far the document went. Raises ValueError where nobody was asked."""
    final = combine(by)
    return CascadeScore(**vars(final), stage_reached=stage_reached(by), by=by)
