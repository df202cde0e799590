"""Distils and calibrates the cascade's gates: `safetrove classifier calibrate`."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.calibration_file import Calibration, Cost, CurvePoint
from classifiers.cascade import CALIBRATION_FILE, cascade_identity
from classifiers.cascade_rules import AT_1, AT_3, BOUNDARIES, NEVER_TRAIN, Thresholds, asks_whole, replay
from classifiers.chunk_gate import GATE_FILE, gate_scores
from classifiers.embedding import SHIPPED_HEAD, EmbeddingClassifier
from classifiers.errors import DataError
from classifiers.fasttext_classifier import SHIPPED_WEIGHTS, FastTextClassifier
from classifiers.gate_statistics import choose_threshold, recall_curve
from classifiers.score import Score
from classifiers.training.gate_training import (
    Teaching,
    fit_gate,
    fold_of,
    gate_bytes,
    save_gate,
    teach,
    token_features,
    token_vectors,
)
from classifiers.training.labels import read_texts

FOLDS = 4
CURVE_POINTS = 20
LEAST_NEVER_TRAIN_SHARE = 0.01  # of chunks that the never_train gate passes on, however few such documents the data has
_COLUMN = dict(zip(BOUNDARIES, (AT_1, AT_3), strict=True))


@dataclass(frozen=True)
class Evidence:
    """One document as both runs see it.

    `gate` [chunks, 3]: the gate's scores; `levels` [chunks]: what the encoder gives each chunk where it reads all of
    them; `never_train` [chunks, bool]: whether such a chunk is never trained on; `tokens` [chunks]; `first`: the first
    classifier's level; `whole`: its category sends the whole document on.
    """

    gate: np.ndarray
    levels: np.ndarray
    never_train: np.ndarray
    tokens: np.ndarray
    first: int
    whole: bool


def passing_score(document: Evidence, level: int) -> float:
    """The highest threshold at which a document that is truly at `level` or above still is found to be.

    The best gate score of its chunks at `level` or above; 1 where the first classifier finds it by itself.
    """
    if document.first >= level or document.whole:
        return 1.0
    return float(document.gate[document.levels >= level, _COLUMN[level]].max())


def never_train_threshold(documents: list[Evidence]) -> float:
    """Passes every never_train chunk of the data, and at least `LEAST_NEVER_TRAIN_SHARE` of all chunks.

    There are too few such documents to promise a recall with, so none is promised.
    """
    scores = np.concatenate([document.gate[:, NEVER_TRAIN] for document in documents])
    known = np.concatenate([document.never_train for document in documents])
    return float(min([np.quantile(scores, 1 - LEAST_NEVER_TRAIN_SHARE, method="lower"), *scores[known].tolist()]))


def cascade_cost(documents: list[Evidence], thresholds: Thresholds) -> Cost:
    """What the cascade embeds of these documents."""
    asked = chunks = tokens = 0
    for document in documents:
        embedded = replay(document.gate, thresholds, document.first, document.levels, document.whole)
        asked += bool(embedded)
        chunks += len(embedded)
        tokens += int(document.tokens[embedded].sum())
    return Cost(
        documents=asked / len(documents),
        chunks=chunks / sum(len(document.levels) for document in documents),
        tokens=tokens / sum(int(document.tokens.sum()) for document in documents),
    )


def calibrate(
    documents: list[Evidence],
    targets: dict[int, float | None],
    confidence: float,
    identity: dict[str, Any],
    data_sha256: str,
) -> Calibration:
    """Gates whose recall at each level of `BOUNDARIES` is at least its target, relative to the always-embed run.

    A target of None is the most that the data can promise, with no document missed. Raises DataError where the data is
    too small for a target at this confidence.
    """
    passing = {level: [passing_score(d, level) for d in documents if d.levels.max() >= level] for level in BOUNDARIES}
    promises = [choose_threshold(passing[level], level, targets[level], confidence) for level in BOUNDARIES]
    thresholds = Thresholds(promises[0].threshold, promises[1].threshold, never_train_threshold(documents))
    curve = []
    for level, field in zip(BOUNDARIES, ("at_1", "at_3"), strict=True):
        for threshold, recall, lower in recall_curve(passing[level], confidence, CURVE_POINTS):
            moved = Thresholds(**{**vars(thresholds), field: threshold})
            cost = cascade_cost(documents, moved)
            curve.append(CurvePoint(level=level, threshold=threshold, recall=recall, lower_bound=lower, cost=cost))
    return Calibration(
        date=datetime.now(UTC).date().isoformat(),
        data_sha256=data_sha256,
        documents=len(documents),
        chunks=sum(len(document.levels) for document in documents),
        confidence=confidence,
        classifiers=identity,
        thresholds=thresholds,
        promises=promises,
        never_train_documents=sum(bool(document.never_train.any()) for document in documents),
        cost=cascade_cost(documents, thresholds),
        curve=curve,
    )


def texts_sha256(texts: list[str]) -> str:
    """sha256 (hexadecimal) over the texts, in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode("utf-8", "replace")).digest())
    return digest.hexdigest()


def evidence_of(teaching: Teaching, gate_scores: np.ndarray, first: list[Score]) -> list[Evidence]:
    """One `Evidence` a text. `gate_scores` [chunks, 3] of the chunks of `teaching`; `first`: the first classifier's."""
    starts = np.searchsorted(teaching.document, np.arange(len(first) + 1))
    tokens = np.array([len(window) for window in teaching.windows])
    never_train = teaching.targets[:, NEVER_TRAIN] >= 0.0
    return [
        Evidence(gate_scores[a:b], teaching.levels[a:b], never_train[a:b], tokens[a:b], score.score, asks_whole(score))
        for a, b, score in zip(starts[:-1], starts[1:], first, strict=True)
    ]


def cross_fitted_scores(
    texts: list[str], teaching: Teaching, others: list[tuple[Teaching, np.ndarray]], features: np.ndarray
) -> np.ndarray:
    """[chunks, 3]: gate scores of every chunk, by a gate that was distilled from the other `FOLDS` - 1 folds of texts."""
    folds = np.array([fold_of(text, FOLDS) for text in texts])[teaching.document]
    scores = np.zeros((len(teaching.windows), 3))
    for fold in range(FOLDS):
        kept, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        tensors = fit_gate(features, [*others, (teaching, kept)])
        for row in held_out:
            scores[row] = gate_scores(tensors, [teaching.windows[row]])[0]
    return scores


def weight_paths(weights: Path | None) -> tuple[Path | None, Path | None]:
    """(folder of the fastText models, file of the heads) under a folder that the training command wrote."""
    if weights is None:
        return None, None
    return weights / SHIPPED_WEIGHTS.name, weights / SHIPPED_HEAD.parent.name / SHIPPED_HEAD.name


def distil_and_calibrate(
    classifiers: tuple[FastTextClassifier, EmbeddingClassifier],
    weights: Path | None,
    texts: list[str],
    labelled: list[str],
    folder: Path,
    targets: dict[int, float | None],
    confidence: float,
) -> Calibration:
    """Writes `gate.safetensors` and `calibration.json` into `folder`, and returns the calibration.

    `weights`: the folder that `classifiers` were loaded from, None for the shipped ones. `texts`: unlabelled, drawn as
    the corpus is; `labelled`: more texts to distil from, in whatever mix; those that are among `texts` count as such. The gate is distilled from all of them; the
    thresholds come from gates of which none has seen the text that it scores. That the final gate, distilled from more,
    is at least as good as those is an assumption, which `benchmarks.cascade_speed` checks on pages that the whole
    procedure has not seen. Raises as `calibrate`.
    """
    fasttext, embedding = classifiers
    encoder = embedding.encoder
    texts = [text for text in texts if text.strip()]
    in_folds = {
        "",
        *(text.strip() for text in texts),
    }  # what is labelled as well must not teach the gate that scores it
    labelled = [text for text in labelled if text.strip() not in in_folds]
    teaching, other = teach(embedding, texts), teach(embedding, labelled)
    others = [(other, np.arange(len(other.windows)))]
    features = token_features(token_vectors(encoder), [*teaching.windows, *other.windows])
    final = fit_gate(features, [*others, (teaching, np.arange(len(teaching.windows)))])
    sha256 = hashlib.sha256(gate_bytes(final, encoder.weights_sha256)).hexdigest()
    scores = cross_fitted_scores(texts, teaching, others, features)
    fasttext_weights, head = weight_paths(weights)
    identity = cascade_identity(fasttext_weights, encoder.name, head, encoder.precision, sha256)
    evidence = evidence_of(teaching, scores, fasttext.score(texts))
    calibration = calibrate(evidence, targets, confidence, identity, texts_sha256(texts))
    save_gate(final, encoder.weights_sha256, folder / GATE_FILE)
    calibration.save(folder / CALIBRATION_FILE)
    return calibration


def describe(calibration: Calibration) -> str:
    """What the calibration promises, at what cost, in a few lines."""
    lines = [
        f"score >= {p.level}: recall {p.recall:.3f}, at least {p.lower_bound:.3f} with {calibration.confidence:.0%} "
        f"confidence ({p.positives} documents, {p.missed} missed; target {p.target:.3f}), threshold {p.threshold}"
        for p in calibration.promises
    ]
    cost = calibration.cost
    lines.append(
        f"never_train: all {calibration.never_train_documents} documents pass; no recall can be promised\n"
        f"the encoder reads {cost.tokens:.1%} of the tokens, {cost.chunks:.1%} of the chunks, in {cost.documents:.1%} of "
        f"the {calibration.documents} documents"
    )
    return "\n".join(lines)


def read_all_texts(path: Path) -> list[str]:
    """The `text` of each row: of JSON lines, or of a Parquet file or a folder of them; "" for null. Raises DataError."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    if not files:
        return read_texts(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts: list[str] = []
    for file in files:
        try:
            column = pq.read_table(file, columns=["text"]).column("text")
        except (pa.ArrowInvalid, KeyError, OSError) as error:
            raise DataError(f"{file}: cannot be read as Parquet with a column `text` ({error})") from error
        found = column.to_pylist()
        if not all(isinstance(text, str | None) for text in found):
            raise DataError(f"{file}: the column `text` holds {column.type}; expected strings")
        texts += [text or "" for text in found]
    return texts


def calibrate_gates(
    texts: Path,
    distil: Path,
    output: Path,
    weights: Path | None,
    encoder: str,
    precision: str,
    threads: int,
    targets: dict[int, float | None],
    confidence: float,
) -> Calibration:
    """Reads the texts, loads the classifiers, distils and calibrates; what `safetrove classifier calibrate` does.

    Raises DataError where the texts are too few for the targets, ModelError.
    """
    pool, labelled = read_all_texts(texts), read_texts(distil)
    fasttext_weights, head = weight_paths(weights)
    embedding = EmbeddingClassifier.load(encoder, head, threads, precision)
    classifiers = (FastTextClassifier.load(fasttext_weights), embedding)
    return distil_and_calibrate(classifiers, weights, pool, labelled, output, targets, confidence)
