"""The columns of an evaluation: what each classifier and each baseline says of every text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifiers.calibration import weight_paths
from classifiers.cascade import CascadeClassifier
from classifiers.decision import at_least
from classifiers.embedding import EmbeddingClassifier
from classifiers.encoder import EMBEDDED_ENCODER
from classifiers.ensemble import combine
from classifiers.errors import DataError, SafetroveError
from classifiers.evaluating.baselines import alt_profanity_levels, profanity_list_levels, source_levels
from classifiers.fasttext_classifier import FastTextClassifier
from classifiers.never_train import never_train_reason
from classifiers.rubric import LEVELS
from classifiers.score import Score
from classifiers.training.labels import LabelledText

UNSCORED_LEVEL = len(LEVELS) - 1  # as in a corpus: what nobody could score is never trained on as safe
ENSEMBLE = "ensemble"
SOURCE_ALONE = "source alone"


@dataclass(frozen=True)
class Member:
    """One classifier's or baseline's column; all sequences are in the order of the texts.

    `levels` [rows], 0-5. `tails` [rows, 5]: P(level >= 1), ..., P(level >= 5), None from one that gives only levels.
    `categories` and `never_train` (would the text be dropped for good?) are None from one that gives none.
    """

    name: str
    levels: tuple[int, ...]
    tails: np.ndarray | None = None
    categories: tuple[str, ...] | None = None
    never_train: tuple[bool, ...] | None = None

    def only(self, rows: Sequence[int]) -> "Member":
        """The column of these rows, in this order."""
        return Member(
            self.name,
            tuple(self.levels[row] for row in rows),
            None if self.tails is None else self.tails[list(rows)],
            None if self.categories is None else tuple(self.categories[row] for row in rows),
            None if self.never_train is None else tuple(self.never_train[row] for row in rows),
        )


def _tails(scores: Sequence[Score | None]) -> np.ndarray:
    unscored = np.ones(len(LEVELS) - 1)
    return np.stack([unscored if score is None else at_least(np.array(score.probabilities)) for score in scores])


def member_from_scores(name: str, texts: Sequence[str], scores: Sequence[Score | None]) -> Member:
    """A classifier's column. A text without a score (an LLM's answer that was none) counts as level 5."""
    return Member(
        name,
        tuple(UNSCORED_LEVEL if score is None else score.score for score in scores),
        _tails(scores),
        tuple("other" if score is None else score.category for score in scores),
        tuple(never_train_reason(text, {name: score}) is not None for text, score in zip(texts, scores, strict=True)),
    )


def ensemble_member(name: str, texts: Sequence[str], columns: Mapping[str, Sequence[Score | None]]) -> Member:
    """The maximum over classifiers. Its tail probabilities are the largest of any: whoever is surest decides."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    scores = [combine(row) if any(score is not None for score in row.values()) else None for row in rows]
    member = member_from_scores(name, texts, scores)
    tails = [_tails(column) for column in columns.values()]
    never_train = tuple(never_train_reason(text, row) is not None for text, row in zip(texts, rows, strict=True))
    return Member(name, member.levels, np.max(tails, axis=0), member.categories, never_train)


def check_weights(weights: Path | None) -> None:
    """Raises DataError where the folder is missing."""
    if weights is not None and not weights.is_dir():
        raise DataError(f"{weights}: no such folder; give one that the training command wrote")


def load_classifiers(weights: Path | None, threads: int) -> tuple[FastTextClassifier, EmbeddingClassifier]:
    """The two classifiers of `weights` (None: the shipped ones), with the embedded encoder. Raises ModelError, DataError."""
    check_weights(weights)
    fasttext, head = weight_paths(weights)
    return FastTextClassifier.load(fasttext), EmbeddingClassifier.load(EMBEDDED_ENCODER, head, threads)


def classifier_scores(texts: list[str], weights: Path | None, threads: int) -> dict[str, list[Score]]:
    """The scores of each classifier of the ensemble, by its name in tables."""
    fasttext, embedding = load_classifiers(weights, threads)
    return {"fastText": fasttext.score(texts), "embedding": embedding.score(texts)}


def load_cascade(calibration: Path, weights: Path | None, threads: int) -> CascadeClassifier:
    """The cascade of a folder that the calibration wrote for `weights`. Raises ModelError, DataError, IdentityError."""
    check_weights(weights)
    fasttext, head = weight_paths(weights)
    return CascadeClassifier.load(
        calibration, EmbeddingClassifier.load(EMBEDDED_ENCODER, head, threads), fasttext, head
    )


def baselines(
    rows: Sequence[LabelledText], training: Sequence[LabelledText] | None
) -> tuple[list[Member], dict[str, str]]:
    """(the baselines' columns, {name: reason} of those that could not be asked)."""
    texts = [row.text for row in rows]
    asked: dict[str, Callable[[], list[int]]] = {
        "profanity list": lambda: profanity_list_levels(texts),
        "alt-profanity-check": lambda: alt_profanity_levels(texts),
        SOURCE_ALONE: lambda: source_levels(rows, training),
    }
    members, skipped = [], {}
    for name, levels in asked.items():
        try:
            members.append(Member(name, tuple(levels())))
        except SafetroveError as error:
            skipped[name] = str(error)
    return members, skipped


def classifier_members(
    texts: Sequence[str], columns: Mapping[str, Sequence[Score | None]], ensembles: Mapping[str, Sequence[str]]
) -> list[Member]:
    """One member for each column of scores, then one for each ensemble: its name, and the columns that it is over."""
    members = [member_from_scores(name, texts, column) for name, column in columns.items()]
    for name, parts in ensembles.items():
        members.append(ensemble_member(name, texts, {part: columns[part] for part in parts}))
    return members
