"""Requests rated by the shipped safety classifiers instead of the base: for bases too small to rate, and without a second answer."""

from collections.abc import Sequence
from typing import Any

from decoding.ngsd.risk import Rating


class SafetyClassifierRater:
    """A rater for `generate(..., rate=...)`: the level 0-5 of a request, doubled, stands on every axis.

    So levels 0 to 2 give a strength of 0.1, level 3 gives 0.5, levels 4 and 5 give 0.9. Ours, not in arXiv 2602.02027. The
    classifiers judge what a text says; a harmful request in harmless words passes them.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._classifiers: Any = None

    def __call__(self, requests: Sequence[str]) -> list[Rating]:
        """Ratings in order. Raises as loading the classifiers does."""
        from classifiers.ensemble import combine
        from classifiers.evaluating.members import load_classifiers

        if self._classifiers is None:
            self._classifiers = load_classifiers(None, self._threads)
        columns = [classifier.score(list(requests)) for classifier in self._classifiers]
        found = []
        for scores in zip(*columns, strict=True):
            level = int(combine(dict(zip(("fasttext", "embedding"), scores, strict=True))).score)
            found.append(Rating(2 * level, 2 * level, 2 * level, 2 * level))
        return found
