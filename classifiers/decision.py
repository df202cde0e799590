"""From six probabilities to one level: the rule whose thresholds are set on texts that the classifier has not seen."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifiers.errors import ModelError
from classifiers.rubric import LEVELS

DECISION_FILE = "decision.json"


def at_least(probabilities: np.ndarray) -> np.ndarray:
    """P(level >= 1), ..., P(level >= 5): [..., 6] to [..., 5]."""
    return probabilities[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:]


@dataclass(frozen=True)
class Decision:
    """`thresholds`: for levels 1 to 5, the least P(level >= k) at which level k is given.

    The paper takes the most probable level. With few texts of a level that is rarely the extreme one, and it leaves no way
    to prefer recall; a threshold for each level is what a proportional-odds model decides by (McCullagh 1980).
    """

    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.thresholds) != len(LEVELS) - 1 or not all(0 < value <= 1 for value in self.thresholds):
            raise ModelError(f"decision thresholds {self.thresholds}: expected {len(LEVELS) - 1} numbers in (0, 1]")

    def levels(self, probabilities: np.ndarray) -> np.ndarray:
        """The highest level whose threshold is met, else 0: [rows, 6] to [rows], int."""
        met = at_least(np.asarray(probabilities)) >= np.asarray(self.thresholds)
        return np.where(met, np.arange(1, len(LEVELS)), 0).max(axis=-1)


@dataclass(frozen=True)
class MostProbable:
    """The paper's rule: the most probable level, not the mean; of equal ones the highest, since recall is preferred.

    `thresholds` (as of a `Decision`) only say where it is least sure: near even odds.
    """

    thresholds: tuple[float, ...] = (0.5,) * (len(LEVELS) - 1)

    def levels(self, probabilities: np.ndarray) -> np.ndarray:
        """[rows, 6] to [rows], int."""
        backwards = np.asarray(probabilities)[..., ::-1]
        return len(LEVELS) - 1 - backwards.argmax(axis=-1)


def read_decision(folder: Path, alone: bool = False) -> Decision:
    """The thresholds beside a classifier's weights: for use with others, or for use alone.

    In a maximum over classifiers each one's false alarms count, so a weak member should speak only where it is sure.
    Raises ModelError where the file is missing or broken.
    """
    path = folder / DECISION_FILE
    if not path.is_file():
        raise ModelError(f"{path}: no such file; restore it, or write it with `safetrove classifier train`")
    key = "alone" if alone else "with_others"
    try:
        return Decision(tuple(float(value) for value in json.loads(path.read_text(encoding="utf-8"))[key]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: expected an object with `with_others` and `alone`, five numbers each ({error!r})"
        ) from error
