"""The LLM judge without a server: the messages that ask for a score, and the strict reader of the answer."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from classifiers.chunks import bounded_text
from classifiers.rubric import CATEGORIES, LEVELS, NO_CATEGORY, rubric_sha256
from classifiers.score import Score

PROMPT_FILE = Path(__file__).parent / "data" / "judge_prompt.txt"
_MOST_REASON_CHARACTERS = 200
_DIGIT = re.compile(r"[0-5]", re.ASCII)
_DOCUMENT_MARK = re.compile(r"</?document>", re.IGNORECASE)


def _system_prompt() -> str:
    levels = "\n".join(f"{level.level} ({level.name}): {level.criteria}" for level in LEVELS)
    categories = "\n".join(f"{category.name}: {category.description}" for category in CATEGORIES)
    return PROMPT_FILE.read_text(encoding="utf-8").format(levels=levels, categories=categories).strip()


def judge_messages(text: str, max_characters: int) -> list[dict[str, str]]:
    """Chat messages: the shared part first (a server caches it), the document last, between marks it cannot close itself.

    A text longer than `max_characters` is sampled evenly. Raises ValueError where `max_characters` is below 64.
    """
    if max_characters < 64:
        raise ValueError(f"max_characters {max_characters}: the judge needs at least 64 characters of a document")
    document = _DOCUMENT_MARK.sub("[document mark]", bounded_text(text, max_characters))
    return [
        {"role": "system", "content": _system_prompt()},
        {"role": "user", "content": f"<document>\n{document}\n</document>"},
    ]


def _from_object(answer: dict[str, Any]) -> tuple[int, str | None, str | None] | None:
    level, category, reason = answer.get("score"), answer.get("category"), answer.get("reason")
    if isinstance(level, str) and _DIGIT.fullmatch(level):
        level = int(level)
    if isinstance(level, bool) or not isinstance(level, int) or level not in range(len(LEVELS)):
        return None
    if not isinstance(category, str | None) or not isinstance(reason, str | None):
        return None
    return level, category, reason[:_MOST_REASON_CHARACTERS] if reason else None


def parse_judge_answer(answer: str) -> Score | None:
    """The score in the judge's answer; None where the answer is anything but a digit 0-5 or one JSON object with `score`.

    A plain answer carries no probabilities: the level gets probability 1 and the category probability 0. An unsafe score
    without a known category is "other".
    """
    answer = answer.strip()
    found: tuple[int, str | None, str | None] | None = None
    if _DIGIT.fullmatch(answer):
        found = (int(answer), None, None)
    elif answer.startswith("{"):
        try:
            decoded = json.loads(answer)
        except (json.JSONDecodeError, RecursionError):
            return None
        found = _from_object(decoded)
    if found is None:
        return None
    level, category, reason = found
    known = {entry.name for entry in CATEGORIES} - {NO_CATEGORY}
    named = NO_CATEGORY if level == 0 else category if category in known else "other"
    probabilities = tuple(float(other.level == level) for other in LEVELS)
    return Score(level, probabilities, named, 0.0, 1, reason)


def judge_sha256() -> str:
    """sha256 (hexadecimal) over the prompt and the rubric: part of the identity of whatever was judged with them."""
    return hashlib.sha256((_system_prompt() + rubric_sha256()).encode()).hexdigest()
