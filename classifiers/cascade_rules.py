"""Which chunks of a document the cascade embeds, and which documents it shows the judge: pure functions.

A document's score is the maximum over its chunks, so a gate per chunk saves most: the encoder reads only the chunks
that may lift the document over a boundary, the most suspicious first, and no more of them once it is lifted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from classifiers.decision import Decision, MostProbable
from classifiers.never_train import LEAST_PROBABILITY
from classifiers.rubric import NEVER_TRAIN_CATEGORIES
from classifiers.score import Score

BOUNDARIES = (1, 3)  # the levels whose recall is promised: safe or not, and review or not
AT_1, AT_3, NEVER_TRAIN = range(3)  # columns of gate scores
HIGHEST = 5


@dataclass(frozen=True)
class Thresholds:
    """Least gate scores, each in [0, 1], at which a chunk is passed on: for score >= 1, for score >= 3, for never_train."""

    at_1: float
    at_3: float
    never_train: float


def surely_embedded(gate: np.ndarray, thresholds: Thresholds, level: int, whole: bool = False) -> list[int]:
    """Chunks that are embedded whatever the encoder says of the others, ascending.

    `gate` [chunks, 3]; `level`: what the first classifier gave. These are the chunks that may reach level 3, unless the
    document has the highest level already, and those that may be never_train, at any level. `whole`: all chunks.
    """
    if whole:
        return list(range(len(gate)))
    chosen = gate[:, NEVER_TRAIN] >= thresholds.never_train
    if level < HIGHEST:
        chosen = chosen | (gate[:, AT_3] >= thresholds.at_3)
    return np.flatnonzero(chosen).tolist()


def embedded_while_safe(gate: np.ndarray, thresholds: Thresholds, already: Sequence[int]) -> list[int]:
    """Chunks that are embedded one after the other while the document is at level 0: the most suspicious first.

    Those that may reach level 1 and are not embedded `already`; the earliest of equal ones first.
    """
    scores = gate[:, AT_1]
    waiting = np.flatnonzero(scores >= thresholds.at_1).tolist()
    return sorted(set(waiting) - set(already), key=lambda chunk: (-scores[chunk], chunk))


def embedding_order(
    gate: np.ndarray, thresholds: Thresholds, level: int, whole: bool = False
) -> tuple[list[int], list[int]]:
    """(chunks to embed at once, chunks to embed in this order while the level is 0) of one document."""
    first = surely_embedded(gate, thresholds, level, whole)
    return first, embedded_while_safe(gate, thresholds, first) if level < BOUNDARIES[0] else []


def replay(
    gate: np.ndarray, thresholds: Thresholds, level: int, chunk_levels: np.ndarray, whole: bool = False
) -> list[int]:
    """The chunks that the cascade embeds where the encoder gives them `chunk_levels` [chunks]: its cost, without a model."""
    first, queue = embedding_order(gate, thresholds, level, whole)
    embedded = list(first)
    reached = max([level, *chunk_levels[first].tolist()])
    for chunk in queue:
        if reached >= BOUNDARIES[0]:
            break
        embedded.append(chunk)
        reached = max(reached, int(chunk_levels[chunk]))
    return embedded


def never_train_margin(never_train: np.ndarray) -> np.ndarray:
    """How far each chunk is from the never_train rule: the largest, over categories, of logit(p) - logit(least p).

    `never_train` [chunks, 3]; at 0 or above the rule drops the document. Shape [chunks].
    """
    least = np.array([LEAST_PROBABILITY[category] for category in NEVER_TRAIN_CATEGORIES])
    clipped = np.clip(never_train, 1e-6, 1 - 1e-6)
    return (np.log(clipped / (1 - clipped)) - np.log(least / (1 - least))).max(axis=1)


def asks_whole(first: Score | None) -> bool:
    """Whether the first classifier's category is never_train: then the encoder reads the whole document."""
    return first is not None and first.category in NEVER_TRAIN_CATEGORIES


def distance_to_threshold(probability: float, threshold: float) -> float:
    """How far a decision is from turning over, 0 to 0.5: the way from the probability to the threshold, in halves of the
    way from the end of [0, 1] on its side. With a threshold of 0.5 this is |probability - 0.5|.

    So a low threshold, which prefers recall, does not make every safe document an open case. Threshold in (0, 1].
    """
    if probability < threshold:
        return 0.5 * (threshold - probability) / threshold
    return 0.5 * (probability - threshold) / (1.0 - threshold) if threshold < 1.0 else 0.0


def near_boundary(probabilities: Sequence[float], decision: Decision | MostProbable, band: float) -> bool:
    """Whether a decision is open: the probability of score >= 1, or of score >= 3, is within `band` of its threshold.

    `probabilities` of levels 0-5, from which `decision` makes the level; `band` in [0, 0.5], on the scale of
    `distance_to_threshold`: 0 asks the judge about none, 0.5 about every document.
    """
    if not 0.0 <= band <= 0.5:
        raise ValueError(f"band {band}: expected 0 to 0.5")
    reached = ((sum(probabilities[boundary:]), decision.thresholds[boundary - 1]) for boundary in BOUNDARIES)
    return band > 0.0 and any(distance_to_threshold(*pair) <= band for pair in reached)


def judge_is_asked(embedding: Score | None, decision: Decision | MostProbable, band: float) -> bool:
    """Whether the judge is asked about a document: the encoder was, and leaves a decision open."""
    return embedding is not None and near_boundary(embedding.probabilities, decision, band)
