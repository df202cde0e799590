"""What a classifier says about one document."""

from dataclasses import dataclass

import numpy as np

from classifiers.decision import Decision, MostProbable
from classifiers.errors import ModelError
from classifiers.rubric import CATEGORY_NAMES, LEVELS, NEVER_TRAIN_CATEGORIES, NO_CATEGORY, UNSAFE_CATEGORY_NAMES

STORED_DECIMALS = 5  # the last bits of a float32 probability differ between batch shapes; what is stored must not


@dataclass(frozen=True)
class Score:
    """Safety of one document, 0 (safe) to 5 (highly unsafe).

    `probabilities` are those of levels 0-5 in the chunk that decided the score and sum to 1 up to rounding;
    `category` is "none" if and only if the score is 0; `category_probability` is in [0, 1];
    `never_train` is empty, or one probability for each of `NEVER_TRAIN_CATEGORIES`, each the maximum over chunks;
    `reason` is a few words, from classifiers that give any. Raises ValueError where these rules are broken.
    """

    score: int
    probabilities: tuple[float, ...]
    category: str
    category_probability: float
    n_chunks: int
    reason: str | None = None
    never_train: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.score not in range(len(LEVELS)):
            raise ValueError(f"score {self.score!r}: expected a whole number from 0 to {len(LEVELS) - 1}")
        if len(self.probabilities) != len(LEVELS):
            raise ValueError(f"{len(self.probabilities)} probabilities: expected {len(LEVELS)}, one for each level")
        if self.category not in CATEGORY_NAMES or (self.category == NO_CATEGORY) != (self.score == 0):
            raise ValueError(
                f"category {self.category!r} with score {self.score}: 'none' belongs to score 0 and to no other"
            )
        if len(self.never_train) not in (0, len(NEVER_TRAIN_CATEGORIES)):
            raise ValueError(
                f"{len(self.never_train)} never-train probabilities: expected 0 or {len(NEVER_TRAIN_CATEGORIES)}"
            )


def score_from_chunks(
    level_probabilities: np.ndarray,
    category_probabilities: np.ndarray,
    never_train: np.ndarray | None = None,
    decision: Decision | MostProbable = MostProbable(),
) -> Score:
    """The document's score: the maximum over its chunks (paper, section on scoring).

    `level_probabilities` [chunks, 6]; `category_probabilities` [chunks, 18] in the order of `UNSAFE_CATEGORY_NAMES`;
    `never_train` [chunks, 3] or None; `decision` makes a level of each chunk's probabilities. Among the chunks of the
    highest level, the one surest of being at least that level speaks for the document; the earliest of equal ones. Raises
    ModelError for probabilities that are not finite: no threshold is met by them, and the text would count as safe.
    """
    for name, array in (
        ("level", level_probabilities),
        ("category", category_probabilities),
        ("never_train", never_train),
    ):
        if array is not None and not np.isfinite(array).all():
            raise ModelError(
                f"a classifier's {name} probabilities are not finite: its weights are broken; train it again"
            )
    level_probabilities = np.round(level_probabilities.astype(np.float64), STORED_DECIMALS)
    category_probabilities = np.round(category_probabilities.astype(np.float64), STORED_DECIMALS)
    levels = decision.levels(level_probabilities).tolist()
    score = max(levels)
    candidates = [chunk for chunk, level in enumerate(levels) if level == score]
    chunk = max(candidates, key=lambda candidate: (level_probabilities[candidate, score:].sum(), -candidate))
    category, category_probability = NO_CATEGORY, float(level_probabilities[chunk, 0])
    if score > 0:
        best = int(category_probabilities[chunk].argmax())
        category, category_probability = UNSAFE_CATEGORY_NAMES[best], float(category_probabilities[chunk, best])
    highest = (
        ()
        if never_train is None
        else tuple(np.round(never_train.astype(np.float64).max(axis=0), STORED_DECIMALS).tolist())
    )
    return Score(
        score, tuple(level_probabilities[chunk].tolist()), category, category_probability, len(levels), None, highest
    )
