"""Which texts to have labelled next: pure functions of the classifier's scores, keyed by text id.

The paper says that it bootstrapped its labels and publishes no procedure; all of this is ours. First round: a part of the
texts spread evenly over the levels that the classifier gives (and over sources), which a random draw from the web would
leave almost empty, and a part that the classifier is least sure of. Later rounds: a head trained on the judge's labels so
far stands in for the judge on texts that it has not seen; where that head and the classifier disagree most, and where the
head is least sure, labels teach most.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from classifiers.rubric import LEVELS

ChosenBy = Literal["stratified", "uncertain", "disagreement"]

# As for the shipped head, see classifiers/training/head_training.py
_INVERSE_REGULARISATION = 3.0
_CLASS_BALANCE = 0.65


@dataclass(frozen=True)
class Candidate:
    """A text that may be chosen: the level that the classifier gives it, the margin between its two most probable levels
    (0: a tie, 1: certain), and, in later rounds, by how many levels the head and the classifier are apart."""

    id: str
    source: str
    level: int
    margin: float
    disagreement: float = 0.0


@dataclass(frozen=True)
class Choice:
    """A chosen text and why."""

    id: str
    by: ChosenBy


def keyed_draw(seed: int, document_id: str) -> float:
    """A number in [0, 1) that depends on (seed, id) alone."""
    digest = hashlib.blake2b(f"{seed}|annotate|{document_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def margin(probabilities: Sequence[float]) -> float:
    """The most probable level's probability minus the second most probable one's."""
    second, first = sorted(probabilities)[-2:]
    return first - second


def expected_level(probabilities: np.ndarray) -> np.ndarray:
    """Sum over levels of level * probability: [..., 6] to [...]."""
    return probabilities @ np.arange(len(LEVELS))


def stratified_order(candidates: Iterable[Candidate], seed: int) -> list[Candidate]:
    """All candidates so that every beginning of the list is spread as evenly as can be over the levels, and within each
    level over the sources; within (level, source) by the keyed draw."""
    ordered = sorted(candidates, key=lambda candidate: (keyed_draw(seed, candidate.id), candidate.id))
    return _in_turns(_in_turns(ordered, lambda c: (c.level, c.source)), lambda c: c.level)


def choose_first(candidates: Sequence[Candidate], number: int, uncertain_share: float, seed: int) -> list[Choice]:
    """`number` texts: `uncertain_share` of them with the smallest margins, the others stratified.

    Whatever the order of the candidates; a larger number with the same share keeps those that a smaller one chose.
    """
    by_margin = _by_margin(candidates, seed)
    return _mixed(by_margin, stratified_order(candidates, seed), "stratified", number, uncertain_share)


def choose_refining(candidates: Sequence[Candidate], number: int, uncertain_share: float, seed: int) -> list[Choice]:
    """`number` texts for a later round: `uncertain_share` of them with the smallest margins, the others with the largest
    disagreement; of equal ones by the keyed draw."""
    apart = sorted(candidates, key=lambda c: (-c.disagreement, keyed_draw(seed, c.id), c.id))
    return _mixed(_by_margin(candidates, seed), apart, "disagreement", number, uncertain_share)


def round_sizes(number: int, rounds: int) -> list[int]:
    """How many texts each round labels: sums to `number`, the first rounds one more where it does not divide."""
    return [number // rounds + (index < number % rounds) for index in range(rounds)]


def head_probabilities(labelled: np.ndarray, levels: Sequence[int], vectors: np.ndarray) -> np.ndarray:
    """Level probabilities [rows, 6] of `vectors` [rows, size] by a head trained on `labelled` [texts, size]."""
    from classifiers.embedding import softmax
    from classifiers.training.head_training import class_weights, fit_multinomial

    targets = np.asarray(levels, dtype=np.int64)
    weights = class_weights(targets, len(LEVELS), _CLASS_BALANCE)
    matrix, bias = fit_multinomial(labelled, targets, weights, len(LEVELS), _INVERSE_REGULARISATION)
    return softmax(vectors @ matrix.T + bias)


def text_vectors(vectors: np.ndarray, document: np.ndarray, texts: int) -> np.ndarray:
    """One vector a text, the mean over its chunks: `vectors` [chunks, size], `document` [chunks] to [texts, size].

    A text without a chunk (an empty one) gets zeros.
    """
    sums = np.zeros((texts, vectors.shape[1]))
    np.add.at(sums, document, vectors.astype(np.float64))
    return sums / np.maximum(np.bincount(document, minlength=texts), 1)[:, None]


def _by_margin(candidates: Sequence[Candidate], seed: int) -> list[Candidate]:
    return sorted(candidates, key=lambda c: (c.margin, keyed_draw(seed, c.id), c.id))


def _mixed(
    uncertain: Sequence[Candidate], others: Sequence[Candidate], by: ChosenBy, number: int, uncertain_share: float
) -> list[Choice]:
    sure = [Choice(candidate.id, "uncertain") for candidate in uncertain[: round(number * uncertain_share)]]
    taken = {choice.id for choice in sure}
    rest = [Choice(candidate.id, by) for candidate in others if candidate.id not in taken]
    return [*sure, *rest[: number - len(sure)]]


def _in_turns(candidates: Iterable[Candidate], group: Callable[[Candidate], Hashable]) -> list[Candidate]:
    """The first of each group, then the second of each, and so on; within a turn in the order given."""
    turns: dict[int, list[Candidate]] = defaultdict(list)
    seen: dict[Hashable, int] = defaultdict(int)
    for candidate in candidates:
        key = group(candidate)
        turns[seen[key]].append(candidate)
        seen[key] += 1
    return [candidate for turn in sorted(turns) for candidate in turns[turn]]
