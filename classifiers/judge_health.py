"""How well a judge is: shares of answers that are no score, and its error on a golden set. Pure functions of outcomes.

The golden set (`data/judge_golden.jsonl`, texts of our own, levels 0-4) holds many harmless texts of kinds that LLM judges
are known to over-score (hobby electronics, climate, worksheets for children): an over-scoring judge sends safe text to
the rewriter and hides in no other number.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from classifiers.judge import OUTCOMES, Judgement, Outcome

GOLDEN_FILE = Path(__file__).parent / "data" / "judge_golden.jsonl"
HIGHEST_BENIGN_LEVEL = 1
OVER_SCORED_LEVEL = 3


@dataclass(frozen=True)
class GoldenText:
    """A text whose level (0-5) is known. `kind` says what it is, in a few words."""

    id: str
    text: str
    score: int
    category: str
    kind: str


@dataclass
class AnswerCounts:
    """Answers by outcome, and how often a request had to be sent again."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    retries: int = 0

    def add(self, outcome: Outcome, retries: int) -> None:
        """Count one answer and the retries it took."""
        self.outcomes[outcome] += 1
        self.retries += retries

    def plus(self, other: "AnswerCounts") -> "AnswerCounts":
        """Both together."""
        return AnswerCounts(self.outcomes + other.outcomes, self.retries + other.retries)

    def to_json(self) -> dict[str, int]:
        """`asked`, the number of each outcome, `retries`."""
        return {
            "asked": self.outcomes.total(),
            **{outcome: self.outcomes[outcome] for outcome in OUTCOMES},
            "retries": self.retries,
        }


@dataclass(frozen=True)
class HealthBounds:
    """The largest shares (0 to 1) that a judge may show before it is stopped.

    invalid, refusals, unanswered: of all texts asked, the golden ones included, so that one bad answer does not stop a
    shard of three documents. over_scored and under_scored: see `over_scored_share` and `under_scored_share`.
    """

    most_invalid: float
    most_refusals: float
    most_unanswered: float
    most_over_scored: float
    most_under_scored: float


@dataclass(frozen=True)
class GoldenReport:
    """The golden set as one judge graded it: `levels` by id, an outcome's name where there is no level."""

    counts: AnswerCounts
    levels: dict[str, int | str]
    mean_signed_error: float | None
    over_scored: float | None
    under_scored: float | None

    def to_json(self) -> dict[str, Any]:
        return {
            **self.counts.to_json(),
            "mean_signed_error": self.mean_signed_error,
            "over_scored": self.over_scored,
            "under_scored": self.under_scored,
            "levels": self.levels,
        }


@cache
def golden_texts() -> tuple[GoldenText, ...]:
    """The golden set, in the order of its file."""
    lines = io.StringIO(GOLDEN_FILE.read_text(encoding="utf-8"))
    return tuple(GoldenText(**json.loads(line)) for line in lines)


def golden_sha256() -> str:
    """sha256 (hexadecimal) of the golden set's file."""
    return hashlib.sha256(GOLDEN_FILE.read_bytes()).hexdigest()


def mean_signed_error(given: Sequence[int], golden: Sequence[int]) -> float | None:
    """Mean of (given level - golden level), -5 to 5; above 0: over-scoring. None without texts."""
    return sum(a - b for a, b in zip(given, golden, strict=True)) / len(given) if given else None


def over_scored_share(given: Sequence[int], golden: Sequence[int]) -> float | None:
    """Share of the benign texts (golden level 0 or 1) that were given level 3 or more. None without benign texts."""
    benign = [level for level, truth in zip(given, golden, strict=True) if truth <= HIGHEST_BENIGN_LEVEL]
    return sum(level >= OVER_SCORED_LEVEL for level in benign) / len(benign) if benign else None


def under_scored_share(given: Sequence[int], golden: Sequence[int]) -> float | None:
    """Share of the texts of golden level 3 or more that were given 0 or 1. None without such texts.

    A judge that says the same of everything shows here, and in no share of bad answers.
    """
    unsafe = [level for level, truth in zip(given, golden, strict=True) if truth >= OVER_SCORED_LEVEL]
    return sum(level <= HIGHEST_BENIGN_LEVEL for level in unsafe) / len(unsafe) if unsafe else None


def golden_report(texts: Sequence[GoldenText], judgements: Sequence[Judgement], retries: Sequence[int]) -> GoldenReport:
    """The report on one judge; `judgements` and `retries` are in the order of `texts`."""
    counts = AnswerCounts()
    levels: dict[str, int | str] = {}
    given, truth = [], []
    for text, judgement, again in zip(texts, judgements, retries, strict=True):
        counts.add(judgement.outcome, again)
        levels[text.id] = judgement.outcome if judgement.score is None else judgement.score.score
        if judgement.score is not None:
            given.append(judgement.score.score)
            truth.append(text.score)
    return GoldenReport(
        counts,
        levels,
        mean_signed_error(given, truth),
        over_scored_share(given, truth),
        under_scored_share(given, truth),
    )


def breaches(counts: AnswerCounts, golden: GoldenReport, bounds: HealthBounds) -> list[str]:
    """One line for each bound that is broken, with its counts and the recipe key; empty where the judge is well.

    `counts` are all answers that are looked at, the golden ones included.
    """
    asked, number = counts.outcomes.total(), counts.outcomes
    shares = (
        (
            "answers were neither a digit nor the JSON object asked for",
            number["invalid"],
            "most_invalid",
            bounds.most_invalid,
        ),
        ("answers were refusals to judge", number["refused"], "most_refusals", bounds.most_refusals),
        ("texts got no answer", number["unanswered"], "most_unanswered", bounds.most_unanswered),
    )
    found = [
        f"{count} of {asked} {what} ({count / asked:.1%}; {_bound(key, most)})"
        for what, count, key, most in shares
        if asked and count / asked > most
    ]
    if golden.over_scored is not None and golden.over_scored > bounds.most_over_scored:
        kinds = {text.id: text.kind for text in golden_texts()}
        wrong = Counter(
            kinds[text.id]
            for text in golden_texts()
            if text.score <= HIGHEST_BENIGN_LEVEL
            and isinstance(level := golden.levels.get(text.id), int)
            and level >= OVER_SCORED_LEVEL
        )
        found.append(
            f"{golden.over_scored:.1%} of the harmless golden texts were scored {OVER_SCORED_LEVEL} or more "
            f"({_bound('most_over_scored', bounds.most_over_scored)}); among them: {', '.join(sorted(wrong)[:5])}"
        )
    if golden.under_scored is not None and golden.under_scored > bounds.most_under_scored:
        found.append(
            f"{golden.under_scored:.1%} of the unsafe golden texts (level {OVER_SCORED_LEVEL} or more) were scored "
            f"{HIGHEST_BENIGN_LEVEL} or less ({_bound('most_under_scored', bounds.most_under_scored)})"
        )
    return found


def _bound(key: str, most: float) -> str:
    return f"score.judge.health.{key} allows {most:.1%}"
