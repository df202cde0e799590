"""The final score: the maximum over the classifiers that were asked (paper: recall is preferred to precision)."""

from collections.abc import Mapping

from classifiers.rubric import NEVER_TRAIN_CATEGORIES
from classifiers.score import Score


def combine(scores: Mapping[str, Score | None]) -> Score:
    """The score of the member with the highest level, whatever the order; None means "not asked", never 0.

    Of equal levels the one with the highest category probability speaks, then the first name in the alphabet.
    `n_chunks` is the largest, each never-train probability the largest of the members that give any.
    Raises ValueError where nobody was asked.
    """
    asked = {name: score for name, score in scores.items() if score is not None}
    if not asked:
        raise ValueError(
            f"no classifier was asked ({', '.join(sorted(scores)) or 'no names at all'}): there is no score"
        )
    speaker = min(asked, key=lambda name: (-asked[name].score, -asked[name].category_probability, name))
    best = asked[speaker]
    evidence = [score.never_train for score in asked.values() if score.never_train]
    highest = (
        tuple(max(row[index] for row in evidence) for index in range(len(NEVER_TRAIN_CATEGORIES))) if evidence else ()
    )
    return Score(
        score=best.score,
        probabilities=best.probabilities,
        category=best.category,
        category_probability=best.category_probability,
        n_chunks=max(score.n_chunks for score in asked.values()),
        reason=best.reason,
        never_train=highest,
    )
