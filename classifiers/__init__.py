"""Safety scoring, 0-5: the rubric, fastText, the embedding classifier, the LLM judge and their ensemble."""

from typing import Any

__all__ = ["ScoreSafety"]


def __getattr__(name: str) -> Any:
    """`classifiers.ScoreSafety` without importing datatrove before it is asked for (PEP 562)."""
    if name == "ScoreSafety":
        from classifiers.step import ScoreSafety

        return ScoreSafety
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
