"""Sets each classifier's decision thresholds on predictions for texts that it was not trained on."""

from dataclasses import dataclass

import numpy as np

from classifiers.decision import Decision
from classifiers.rubric import LEVELS

LEAST_TEXTS = 30  # held out, of a level: with fewer its threshold would be set by chance and stays where it starts
RESAMPLES = 25  # of the held-out texts: the median over them is less of an accident than the best thresholds for all
GRID = np.round(np.concatenate([np.arange(0.05, 0.96, 0.025), [0.97, 0.99, 1.0]]), 3)


@dataclass(frozen=True)
class Goal:
    """What the ensemble should reach on held-out texts: least precision at 1 and at 3; above it, recall and macro F1."""

    precision_1: float = 0.85
    precision_3: float = 0.75


def _ratio(hits: np.ndarray, of: np.ndarray) -> float:
    return float(hits.sum() / max(of.sum(), 1))


def utility(true: np.ndarray, given: np.ndarray, goal: Goal) -> float:
    """Macro F1 + recall@1 + recall@3, less six times what is missing to each least precision. `true`, `given`: levels [rows]."""
    total = 0.0
    for level, least in ((1, goal.precision_1), (3, goal.precision_3)):
        hits = (true >= level) & (given >= level)
        total += _ratio(hits, true >= level) - 6.0 * max(0.0, least - _ratio(hits, given >= level))
    scores = [2.0 * _ratio((true == k) & (given == k), np.append(true == k, given == k)) for k in range(len(LEVELS))]
    return total + float(np.mean(scores))


def set_thresholds(members: dict[str, np.ndarray], true: np.ndarray, goal: Goal) -> dict[str, Decision]:
    """Thresholds of each member [rows, 6]: the median over bootstrap resamples of what is best for each (bagging).

    Levels with fewer than LEAST_TEXTS texts stay where they start: 0.5 for the first member, 0.95 for the others, which
    speak where they are sure. The resamples are the same for the same number of rows.
    """
    free = [level for level in range(len(LEVELS) - 1) if (true == level + 1).sum() >= LEAST_TEXTS]
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        rows = generator.integers(len(true), size=len(true))
        found.append(_best_thresholds({name: each[rows] for name, each in members.items()}, true[rows], free, goal))
    return {name: Decision(tuple(np.median([each[name] for each in found], axis=0).tolist())) for name in members}


def _best_thresholds(
    members: dict[str, np.ndarray], true: np.ndarray, free: list[int], goal: Goal
) -> dict[str, list[float]]:
    """Coordinate ascent over the `free` levels on the utility of the maximum over the members."""
    found = {name: [0.5 if index == 0 else 0.95] * (len(LEVELS) - 1) for index, name in enumerate(members)}

    def value() -> float:
        levels = [Decision(tuple(found[name])).levels(members[name]) for name in members]
        return utility(true, np.maximum.reduce(levels), goal)

    best, improved = value(), True
    while improved:
        improved = False
        for thresholds in found.values():
            for level in free:
                kept = thresholds[level]
                for candidate in GRID:
                    thresholds[level] = float(candidate)
                    if (reached := value()) > best + 1e-9:
                        best, kept, improved = reached, float(candidate), True
                thresholds[level] = kept
    return found
