"""Does the model expect the harmfulness tag where it should: P(tag | context) by the score of the document."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.measures.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    bootstrap_counts,
    bootstrap_mean,
    wilson_interval,
)

# P(tag | text) for each text: the softmax probability of the tag's id at the next position, e.g.
# lambda texts: model.next_token_probability(texts, tag_id)  with evaluation.generation.local_model.LocalModel.
TagProbability = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class TagReport:
    """`levels`: mean P(tag) for each score level that occurs. `auroc[t]`: how well P(tag) tells texts of level >= t from the
    others, t = 1 ... 5 where both kinds occur."""

    levels: dict[int, Estimate]
    auroc: dict[int, Estimate]


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> float:
    """P(score of a positive > that of a negative) + half of P(equal); nan unless both kinds have weight.

    weights: how often each row counts (default once), for a bootstrap.
    """
    positive = np.asarray(positive, dtype=bool)
    weight = np.ones(len(positive)) if weights is None else np.asarray(weights, dtype=np.float64)
    _, group = np.unique(np.asarray(scores), return_inverse=True)
    for_positive = np.bincount(group, weight * positive)
    for_negative = np.bincount(group, weight * ~positive)
    below = for_negative.cumsum() - for_negative
    pairs = for_positive.sum() * for_negative.sum()
    return float((for_positive * (below + for_negative / 2)).sum() / pairs) if pairs else float("nan")


def tag_report(levels: Sequence[int], probabilities: Sequence[float], seed: int = 0) -> TagReport:
    """Levels 0-5 of the documents and P(tag | document's beginning) of each, with bootstrap intervals.

    Raises ValueError for different lengths or a probability outside [0, 1].
    """
    level, chance = np.asarray(levels), np.asarray(probabilities, dtype=np.float64)
    if level.shape != chance.shape or level.ndim != 1:
        raise ValueError(
            f"{len(levels)} levels and {len(probabilities)} probabilities: expected one of each a document"
        )
    if not ((chance >= 0) & (chance <= 1)).all():
        raise ValueError("P(tag) must lie in [0, 1]")
    means = {
        int(value): bootstrap_mean(chance[level == value].tolist(), seed=seed, value_range=(0, 1))
        for value in np.unique(level)
    }
    thresholds = [t for t in range(1, 6) if 0 < int((level >= t).sum()) < len(level)]
    return TagReport(means, {t: _auroc_interval(chance, level >= t, seed) for t in thresholds})


def measure_tag_probability(
    documents: Sequence[tuple[str, int]], probability: TagProbability, characters: int = 600
) -> TagReport:
    """Asks `probability` about the first `characters` of each (text, level), cut after a word, all texts in one call.

    Texts of equal length are compared this way: after many words without a tag a model trained on tags takes a text for safe
    whatever it says, so longer contexts give lower probabilities.
    """
    contexts = [_beginning(text, characters) for text, _ in documents]
    return tag_report([level for _, level in documents], np.asarray(probability(contexts)).tolist())


def _beginning(text: str, characters: int) -> str:
    if len(text) <= characters:
        return text
    parts = text[: characters + 1].rsplit(maxsplit=1)
    return (parts[0] if parts else text)[:characters]  # white space alone has no word to cut after


def _auroc_interval(chance: np.ndarray, positive: np.ndarray, seed: int) -> Estimate:
    """A bootstrap over documents. Where it cannot vary (all pairs are in one order): Wilson's interval of `value` with the
    smaller class's size, whose variance v(1 - v)/min(m, n) no AUROC of m and n documents exceeds (van Dantzig 1951)."""
    value = auroc(chance, positive)
    if value in (0.0, 1.0):
        smaller = int(min(positive.sum(), (~positive).sum()))
        bound = wilson_interval(value * smaller, smaller)
        return Estimate(value, bound.low, bound.high, len(chance), "wilson")
    counts = bootstrap_counts(len(chance), RESAMPLES // 4, seed)
    found = np.array([auroc(chance, positive, row) for row in counts])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(found, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), len(chance), "bootstrap")
