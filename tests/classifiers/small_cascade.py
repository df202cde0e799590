"""A real but small cascade for tests: a gate distilled from a few sentences, over made-up token features."""

from pathlib import Path

import numpy as np

from classifiers.calibration import calibrate, evidence_of, texts_sha256
from classifiers.calibration_file import Calibration
from classifiers.cascade import CALIBRATION_FILE, cascade_identity
from classifiers.chunk_gate import GATE_FILE, ChunkGate
from classifiers.embedding import EmbeddingClassifier
from classifiers.fasttext_classifier import FastTextClassifier
from classifiers.training.gate_training import fit_gate, save_gate, teach

THINGS = ("bread", "ferry", "garden", "bicycle", "library", "choir", "river", "kitchen")
SAFE = [f"How to clean a {thing}: use warm water, a soft brush and a little soap, then let it dry." for thing in THINGS]
UNSAFE = [
    f"He waited by the {thing} with a knife and told her she would not live to see the morning." for thing in THINGS
]
LONG_SAFE = " ".join(SAFE) * 4


def build_small_cascade(folder: Path, embedding: EmbeddingClassifier) -> Calibration:
    """Writes a gate and its calibration for the shipped weights into the folder."""
    texts = [*SAFE, *UNSAFE, LONG_SAFE]
    encoder = embedding.encoder
    features = np.random.default_rng(0).normal(size=(encoder.vocabulary_size, 24)).astype(np.float32)
    teaching = teach(embedding, texts)
    sha256 = save_gate(
        fit_gate(features, [(teaching, np.arange(len(teaching.windows)))]), encoder.weights_sha256, folder / GATE_FILE
    )
    gate = ChunkGate(folder / GATE_FILE, encoder.weights_sha256)
    scores = np.concatenate(
        [
            gate.scores([teaching.windows[row] for row in np.flatnonzero(teaching.document == n)])
            for n in range(len(texts))
        ]
    )
    identity = cascade_identity(None, encoder.name, None, encoder.precision, sha256)
    # As if fastText had found nothing: only the gate decides.
    first = FastTextClassifier.load().score([SAFE[0]] * len(texts))
    calibration = calibrate(
        evidence_of(teaching, scores, first), {1: None, 3: None}, 0.95, identity, texts_sha256(texts)
    )
    calibration.save(folder / CALIBRATION_FILE)
    return calibration
