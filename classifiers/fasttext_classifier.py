"""Two small fastText models, one for the level and one for the category: the cheap first classifier."""

import hashlib
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.chunks import balanced_spans, bounded_text, encodable
from classifiers.decision import DECISION_FILE, read_decision
from classifiers.errors import DependencyError, ModelError
from classifiers.masking import mask_identifiers
from classifiers.rubric import LEVELS, UNSAFE_CATEGORY_NAMES
from classifiers.score import Score, score_from_chunks

SHIPPED_WEIGHTS = Path(__file__).parent / "weights" / "fasttext"
LEVEL_FILE, CATEGORY_FILE = "level.ftz", "category.ftz"
LABEL_PREFIX = "__label__"
LEVEL_LABELS = tuple(f"{LABEL_PREFIX}{level.level}" for level in LEVELS)
CATEGORY_LABELS = tuple(LABEL_PREFIX + name for name in UNSAFE_CATEGORY_NAMES)

MOST_CHARACTERS = 2_000_000  # of one document; a longer one is sampled evenly
MOST_WORD_CHARACTERS = 64  # longer "words" are data; fastText's reader has no bound of its own
CHUNK_WORDS = 300  # the length of the longest training texts
MOST_CHUNKS = 1_000

_WORD = re.compile(r"[\w']+|[^\w\s']")
_DIGIT = re.compile(r"\d")
_ASCII_DIGITS_AS_0 = str.maketrans("123456789", "000000000")
_PACKAGES = ("fasttext-numpy2-wheel", "fasttext-community", "fasttext-numpy2", "fasttext-predict")


def binding() -> Any:
    """The `fasttext` module. Raises DependencyError where none is installed."""
    try:
        import fasttext
    except ImportError as error:
        raise DependencyError(
            "the fastText classifier needs a fastText binding: pip install fasttext-numpy2-wheel (Python 3.13: fasttext-community)"
        ) from error
    return fasttext


def words_of(text: str) -> list[str]:
    """What fastText reads: masked, lower case, digits as 0, punctuation apart, no line ends, no NUL, no surrogates."""
    text = encodable(bounded_text(text, MOST_CHARACTERS))
    text = mask_identifiers(text).lower()
    text = text.translate(_ASCII_DIGITS_AS_0) if text.isascii() else _DIGIT.sub("0", text)
    words: list[str] = _WORD.findall(text)
    if max(map(len, words), default=0) > MOST_WORD_CHARACTERS:
        return [word[:MOST_WORD_CHARACTERS] for word in words]
    return words


def _load_model(path: Path, labels: tuple[str, ...]) -> Any:
    if not path.is_file():
        raise ModelError(f"{path}: no such fastText model; train one with `python -m classifiers.training.train`")
    content = path.read_bytes()
    if len(content) < 1_000 or int.from_bytes(content[:4], "little") != 793712314:
        raise ModelError(f"{path}: not a fastText model (wrong magic number); restore the file or train it again")
    try:
        model = binding().load_model(str(path))
    except ValueError as error:
        raise ModelError(f"{path}: fastText cannot read it ({error}); restore the file or train it again") from error
    unknown = set(model.get_labels()) - set(labels)
    if unknown:
        raise ModelError(f"{path}: has labels that the rubric lacks: {', '.join(sorted(unknown))}; train it again")
    return model


def _probabilities(model: Any, lines: list[str], labels: tuple[str, ...]) -> np.ndarray:
    """[lines, labels]; 0 for labels that the model never saw. The caller's lines hold no line end."""
    column = {label: index for index, label in enumerate(labels)}
    predict, number = model.f.predict, len(labels)
    rows = []
    for line in lines:
        row = [0.0] * number
        # The binding's own `predict` fails under numpy 2 for one text; its C++ object answers with plain pairs.
        for probability, label in predict(line + "\n", number, 0.0, "strict"):
            row[column[label]] = probability
        if not any(row):  # no known word, not even the end of line: fastText says nothing
            row = _probabilities(model, [""], labels)[0].tolist() if line else [1.0] * number
        rows.append(row)
    probabilities = np.array(rows)
    return probabilities / probabilities.sum(axis=1, keepdims=True)


class FastTextClassifier:
    """Scores texts with fastText; a score depends on its text alone. Made by `load`."""

    name = "fasttext"

    def __init__(self, folder: Path, alone: bool = False) -> None:
        self._folder = folder
        self._level_model = _load_model(folder / LEVEL_FILE, LEVEL_LABELS)
        self._category_model = _load_model(folder / CATEGORY_FILE, CATEGORY_LABELS)
        self._decision = read_decision(folder, alone)

    @classmethod
    def load(cls, path: Path | None = None, alone: bool = False) -> "FastTextClassifier":
        """From a folder with `level.ftz`, `category.ftz` and `decision.json`; None is the shipped one.

        `alone`: no other classifier is asked, so decide levels for recall. Raises ModelError, DependencyError.
        """
        return cls(SHIPPED_WEIGHTS if path is None else Path(path), alone)

    def score(self, texts: list[str]) -> list[Score]:
        """One score a text, in order; any string gets one (an empty one scores 0)."""
        return [self._score_one(text) for text in texts]

    def _score_one(self, text: str) -> Score:
        words = words_of(text)
        if not words:
            certain = np.eye(1, len(LEVELS))
            return score_from_chunks(certain, np.zeros((1, len(UNSAFE_CATEGORY_NAMES))))
        lines = [" ".join(words[start:end]) for start, end in balanced_spans(len(words), CHUNK_WORDS, MOST_CHUNKS)]
        levels = _probabilities(self._level_model, lines, LEVEL_LABELS)
        score = score_from_chunks(levels, np.zeros((len(lines), len(CATEGORY_LABELS))), decision=self._decision)
        if score.score == 0:  # level 0 has no category: nothing to ask
            return score
        categories = _probabilities(self._category_model, lines, CATEGORY_LABELS)
        return score_from_chunks(levels, categories, decision=self._decision)

    def fingerprint(self) -> dict[str, Any]:
        """What the scores depend on: name, sha256 of each weight file, the binding's version."""
        return {
            "name": self.name,
            "sha256": {
                name: hashlib.sha256((self._folder / name).read_bytes()).hexdigest()
                for name in (LEVEL_FILE, CATEGORY_FILE, DECISION_FILE)
            },
            "versions": _binding_versions(),
        }


def _binding_versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
