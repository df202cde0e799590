"""What a prompt file says its output must look like (`expects`), and which of it a text does not do.

The keys of `expects`; all may be left out:

| key | value | what is counted or demanded |
|---|---|---|
| speakers | least, most | different speakers of labelled turns |
| turns | least, most | labelled turns |
| headings | least, most | headings |
| paragraphs | least, most | blocks of text |
| questions | least, most | question marks |
| question_answer_pairs | least, most | questions, each with its answer |
| characters | least, most | length |
| last_turn_words | least, most | words of a dialogue's last turn |
| title | true | the first line is a heading |
| closing_question | true | a question stands in the last part |
| third_person | true | hardly any "I" or "you" outside quotation marks (in the languages of `pronouns.yaml`) |
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rephrasers.checks import shape
from rephrasers.checks.phrases import QUOTED

COUNTED = (
    "speakers", "turns", "headings", "paragraphs", "questions", "question_answer_pairs", "characters",
    "last_turn_words",
)  # fmt: skip
DEMANDED = ("title", "closing_question", "third_person")
# Of all words outside quotation marks. A page that speaks of people quotes and generalises now and then.
MOST_PRONOUNS = 0.02


@dataclass(frozen=True)
class Range:
    """From `least` to `most`, both included; None: no upper end."""

    least: int = 0
    most: int | None = None

    def holds(self, number: int) -> bool:
        """Whether the number lies in it."""
        return self.least <= number and (self.most is None or number <= self.most)


@dataclass(frozen=True)
class Expectations:
    """The `expects` of a prompt file: ranges by what is counted, and what is demanded."""

    ranges: tuple[tuple[str, Range], ...] = ()
    demands: tuple[str, ...] = ()


def read_expectations(value: Any, where: str) -> Expectations:
    """Checked expectations. Raises ValueError that says, after `where`, which key is wrong and what it may be."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a mapping, got {value!r}")
    unknown = sorted(set(value) - {*COUNTED, *DEMANDED})
    if unknown:
        raise ValueError(f"{where}: unknown {', '.join(map(str, unknown))}; known: {', '.join((*COUNTED, *DEMANDED))}")
    for key in DEMANDED:
        if value.get(key, True) is not True:
            raise ValueError(f"{where}.{key} can only be true; leave it out otherwise")
    ranges = tuple((key, _range(value[key], f"{where}.{key}")) for key in COUNTED if key in value)
    return Expectations(ranges, tuple(key for key in DEMANDED if key in value))


def _range(value: Any, where: str) -> Range:
    numbers = isinstance(value, dict) and all(type(number) is int for number in value.values())
    if not numbers or not value or set(value) - {"least", "most"} or value.get("least", 0) > value.get("most", 10**9):
        raise ValueError(f"{where} must hold `least`, `most` or both, whole numbers in this order; got {value!r}")
    return Range(**value)


def unmet(
    text: str, expectations: Expectations, language: str | None = None, turns: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The keys that the text does not meet, in the order of the table. turns: what is said in each turn of a parsed
    dialogue; None: its speakers are looked for in the text."""
    failed = [key for key, allowed in expectations.ranges if not allowed.holds(_count(key, text, turns))]
    tests: Mapping[str, bool] = {
        "title": shape.has_title(text),
        "closing_question": shape.ends_with_question(text),
        "third_person": pronoun_share(text, language) <= MOST_PRONOUNS,
    }
    return (*failed, *(key for key in expectations.demands if not tests[key]))


def _count(key: str, text: str, turns: Sequence[str] | None) -> int:
    if key == "turns":
        return len(shape.turn_labels(text)) if turns is None else len(turns)
    if key == "last_turn_words":
        return (
            shape.width(turns[-1]) // 5 if turns and _spaceless(turns[-1]) else len(turns[-1].split()) if turns else 0
        )
    if key == "characters":
        return shape.width(text)
    if key == "speakers":
        return len(set(shape.turn_labels(text)))
    counted = {
        "headings": lambda: len(shape.headings(text)),
        "paragraphs": lambda: shape.paragraphs(text),
        "questions": lambda: shape.questions(text),
        "question_answer_pairs": lambda: shape.question_answer_pairs(text),
    }
    return counted[key]()


def _spaceless(text: str) -> bool:
    return shape.width(text) > 2 * len(text)


def pronoun_share(text: str, language: str | None) -> float:
    """Share of first and second person pronouns among the words outside quotation marks, in [0, 1]; 0 for a language
    that `pronouns.yaml` does not have."""
    known = _pronouns().get(language or "")
    words = re.findall(r"[^\W\d_]+", QUOTED.sub(" ", text).lower())
    return sum(word in known for word in words) / len(words) if known and words else 0.0


@cache
def _pronouns() -> dict[str, frozenset[str]]:
    lists = yaml.safe_load(Path(__file__).with_name("pronouns.yaml").read_text(encoding="utf-8"))
    return {language: frozenset(words) for language, words in lists.items()}
