"""The LLM judge without a server: what is asked, and the strict reader of what was answered.

Two modes. `digit`: one digit, whose log-probabilities give the six level probabilities and the expected score; for
scoring. `json`: score, category and a reason; for annotation.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from classifiers.chunks import bounded_text, encodable
from classifiers.decision import MostProbable
from classifiers.rubric import CATEGORIES, CATEGORY_NAMES, LEVELS, NO_CATEGORY, rubric_sha256
from classifiers.score import STORED_DECIMALS, Score

JudgeMode = Literal["digit", "json"]
Outcome = Literal["scored", "invalid", "refused", "unanswered"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

PROMPT_FILE = Path(__file__).parent / "data" / "judge_prompt.yaml"
LEVEL_DIGITS: tuple[str, ...] = tuple(str(level.level) for level in LEVELS)
MOST_REASON_CHARACTERS = 120
_DIGIT = re.compile(r"[0-5]", re.ASCII)
# Also with spaces, also left open or with attributes, which stay: what is taken out must not hide anything.
DOCUMENT_MARK = re.compile(r"<[^\w<>]{0,20}+document\b>?", re.IGNORECASE)
NEUTRAL_MARK = "[document mark]"
_REFUSAL = re.compile(
    r"\W*(?:(?:i'?m|i am) (?:\w+ )?(?:sorry|unable|not able)\b|i (?:can'?t|cannot|can not|won'?t|will not|decline|must decline)\b"
    r"|(?:i )?apologi[sz]e\b|sorry\b|(?:as )?an? (?:ai|language model)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Judgement:
    """What one answer comes to. `score` is None unless `outcome` is "scored"; `expected_score` (0 to 5) is None also where
    the answer came without log-probabilities."""

    outcome: Outcome
    score: Score | None = None
    expected_score: float | None = None


@cache
def _prompt() -> dict[str, str]:
    parts: dict[str, str] = yaml.safe_load(PROMPT_FILE.read_text(encoding="utf-8"))
    return parts


def _system_prompt(mode: JudgeMode) -> str:
    part = _prompt()
    levels = "\n".join(f"{level.level} ({level.name}): {level.criteria}" for level in LEVELS)
    categories = "\n".join(f"{category.name}: {category.description}" for category in CATEGORIES)
    sections = [part["rules"], f"{part['levels']}\n{levels}"]
    sections += [f"{part['categories']}\n{categories}"] if mode == "json" else []
    return "\n\n".join([*sections, part["example"], part[f"answer_{mode}"]])


def judge_messages(text: str, max_characters: int, mode: JudgeMode = "json") -> list[dict[str, str]]:
    """Chat messages: the shared part first (a server caches it), the document last, between marks it cannot close itself.

    A text longer than `max_characters` is sampled evenly. Raises ValueError where `max_characters` is below 64.
    """
    if max_characters < 64:
        raise ValueError(f"max_characters {max_characters}: the judge needs at least 64 characters of a document")
    document = DOCUMENT_MARK.sub(NEUTRAL_MARK, bounded_text(encodable(text), max_characters))
    return [
        {"role": "system", "content": _system_prompt(mode)},
        {"role": "user", "content": f"<document>\n{document}\n</document>"},
    ]


def decision_question() -> tuple[str, list[str]]:
    """(instructions, criteria of the levels 0-5) for servers that answer typed questions instead of messages."""
    part = _prompt()
    return f"{part['rules']}\n\n{part['example']}", [f"{level.name}: {level.criteria}" for level in LEVELS]


def answer_schema() -> dict[str, Any]:
    """JSON schema of an answer in mode `json`, for servers that constrain answers by one."""
    properties = {
        "score": {"type": "integer", "enum": [level.level for level in LEVELS]},
        "category": {"type": "string", "enum": list(CATEGORY_NAMES)},
        "reason": {"type": "string", "maxLength": MOST_REASON_CHARACTERS},
    }
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def expected_score(probabilities: Sequence[float]) -> float:
    """sum over levels of level * p(level), 0 to 5, for the probabilities of the levels 0-5, which sum to 1."""
    return sum(level * probability for level, probability in enumerate(probabilities))


def level_probabilities(token_logprobs: Iterable[tuple[str, float]]) -> tuple[float, ...] | None:
    """The probabilities of the levels 0-5, from the log-probabilities (natural) of one answer token's candidates.

    Renormalised over the allowed digits: p(level) = sum of exp(logprob) of the tokens that spell it, with or without
    white space, over the sum for all six levels. A level that is not among the candidates gets 0; None where none is.
    """
    found: dict[int, list[float]] = {}
    for token, logprob in token_logprobs:
        digit = token.strip()
        if _DIGIT.fullmatch(digit) and math.isfinite(logprob):
            found.setdefault(int(digit), []).append(logprob)
    if not found:
        return None
    highest = max(max(logprobs) for logprobs in found.values())
    weights = [sum(math.exp(x - highest) for x in found.get(level.level, [])) for level in LEVELS]
    return tuple(weight / sum(weights) for weight in weights)


def _digits_share(token_logprobs: Iterable[tuple[str, float]]) -> float:
    """The probability that an answer token is a digit 0-5: near 1 where the level was written, small at white space before it."""
    return sum(math.exp(min(x, 0.0)) for t, x in token_logprobs if _DIGIT.fullmatch(t.strip()) and math.isfinite(x))


def is_refusal(answer: str, finish_reason: str | None = None) -> bool:
    """True where the judge would not judge: the server's filter cut in, or the answer, or the reason in an object without
    a score, begins with a refusal (English wordings)."""
    if finish_reason == "content_filter":
        return True
    decoded = _decode(answer)
    if decoded is not None:
        return _from_object(decoded) is None and is_refusal(str(decoded.get("reason") or ""))
    return _REFUSAL.match(answer.replace("’", "'")) is not None


def read_answer(answer: Mapping[str, Any] | None) -> Judgement:
    """The judgement in an answer as `rephrasers.ask.AskLLM` keeps it (`text`, `finish_reason`, and, where they were asked
    for, `token_logprobs`: for each token of the answer its candidates as (token, logprob)). None: it was not answered.

    The level is the most probable one (of equal ones the highest, as for every classifier), not the rounded expected
    score, at the token that is most surely a digit: white space may stand before it, whose candidates hold digits too.
    Without log-probabilities the written level has probability 1.
    """
    if answer is None:
        return Judgement("unanswered")
    score = parse_judge_answer(answer["text"])
    if score is None:
        return Judgement("refused" if is_refusal(answer["text"], answer.get("finish_reason")) else "invalid")
    if not _DIGIT.fullmatch(answer["text"].strip()):
        return Judgement("scored", score)
    exact = level_probabilities(max(answer.get("token_logprobs") or [()], key=_digits_share))
    if exact is None:
        return Judgement("scored", score)
    probabilities = tuple(round(probability, STORED_DECIMALS) for probability in exact)
    return Judgement(
        "scored",
        _plain_score(int(MostProbable().levels(np.array(probabilities))), probabilities),
        round(expected_score(exact), STORED_DECIMALS),
    )


def parse_judge_answer(answer: str) -> Score | None:
    """The score in the judge's answer; None where the answer is anything but a digit 0-5 or one JSON object with `score`.

    A plain answer carries no probabilities: the level gets probability 1 and the category probability 0. An unsafe score
    without a known category is "other".
    """
    answer = answer.strip()
    found: tuple[int, str | None, str | None] | None = None
    if _DIGIT.fullmatch(answer):
        found = (int(answer), None, None)
    elif (decoded := _decode(answer)) is not None:
        found = _from_object(decoded)
    if found is None:
        return None
    level, category, reason = found
    return _plain_score(level, tuple(float(other.level == level) for other in LEVELS), category, reason)


def judge_sha256(mode: JudgeMode = "json") -> str:
    """sha256 (hexadecimal) over all that this mode may ask with, and the rubric: part of the identity of the scores.

    The same whichever server answers, so that a machine without the server can still compare a run with its recipe.
    """
    parts = [_system_prompt(mode), rubric_sha256()]
    parts += [json.dumps(decision_question() if mode == "digit" else answer_schema())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _plain_score(
    level: int, probabilities: tuple[float, ...], category: str | None = None, reason: str | None = None
) -> Score:
    known = set(CATEGORY_NAMES) - {NO_CATEGORY}
    named = NO_CATEGORY if level == 0 else category if category in known else "other"
    return Score(level, probabilities, named, 0.0, 1, reason)


def _decode(answer: str) -> dict[str, Any] | None:
    """The JSON object that the answer is, or None."""
    if not answer.strip().startswith("{"):
        return None
    try:
        decoded: dict[str, Any] = json.loads(answer)
    except (ValueError, RecursionError):  # also a number of more digits than int() reads
        return None
    return decoded


def _from_object(answer: dict[str, Any]) -> tuple[int, str | None, str | None] | None:
    level, category, reason = answer.get("score"), answer.get("category"), answer.get("reason")
    if isinstance(level, str) and _DIGIT.fullmatch(level):
        level = int(level)
    if isinstance(level, bool) or not isinstance(level, int) or level not in range(len(LEVELS)):
        return None
    if not isinstance(category, str | None) or not isinstance(reason, str | None):
        return None
    return level, category, encodable(reason)[:MOST_REASON_CHARACTERS] if reason else None
