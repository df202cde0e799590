"""Numbers, dates and places of a source, and how many of them a rewrite keeps. Names of persons are never asked for.

Not asked for either: doses and measures of substances, long numbers (accounts, telephones), clock times, addresses and
numbers of list items. Which sentences of a source are safe is the scorer's to say (`verify`).
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

# A source with fewer facts is not judged; of many, this number is enough.
LEAST_FACTS, ENOUGH_FACTS = 2, 5
KEPT_SHARE = 0.5
_FACTOR_CHARACTERS = 60  # behind a number, in which a word like "million" is looked for
_NUMBER = re.compile(
    r"(?<![\w.,:/@+-])(\d{1,3}(?:[.,'\u00a0\u202f ]\d{3})+|\d{1,6}(?:[.,]\d{1,3})?)(?![\d:/@])(?!\.\d)"
)
_DOSE = re.compile(
    r"\s?(?:mg|µg|mcg|g|kg|ml|cl|l|oz|milligrams?|grams?|gramm|milliliter|milliliters?|millilitres?|lit(?:er|re)s?|volts?"
    r"|v|°|degrees?|mm|cm|caliber|calibre)\b",
    re.IGNORECASE,
)  # fmt: skip
# These take time in proportion to the text: each begins at one place of a run of spaces, signs or digits, not at all of them.
_LIST_NUMBER = re.compile(r"^[^\S\n]*\d{1,3}[.)]\s", re.MULTILINE)
_ADDRESS = re.compile(r"https?://\S+|www\.\S+|(?<!\S)\S+@\S+")
# A telephone or account, not a number whose thousands are set apart by spaces.
_LONG_NUMBER = re.compile(r"(?<!\d)(?<!\d[ -])(?!\d{1,3}(?: \d{3})+(?![ -]?\d))\d(?:[ -]?\d){8,}")
_SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|(?<=[。！？])|\n+")
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_CAPITAL_AFTER = re.compile(r" [^\W\d_a-z]")


@dataclass(frozen=True)
class Fact:
    """kind: "number", "month" or "place". value: a normalised number ("116000"), a month's number, a place's name."""

    kind: str
    value: str


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text."""
    return [part.strip() for part in _SENTENCE.split(text) if part and part.strip()]


def facts_of(text: str) -> set[Fact]:
    """The facts that a passage holds, as far as they may be asked for."""
    text = _LONG_NUMBER.sub(" ", _ADDRESS.sub(" ", _LIST_NUMBER.sub(" ", text)))
    numbers = {
        Fact("number", number) for match in _NUMBER.finditer(text) if (number := _asked_number(match, text)) is not None
    }
    return numbers | _months(text) | _places(text)


def facts_by_sentence(source: str) -> dict[str, set[Fact]]:
    """Sentence -> facts, of the sentences that hold any."""
    found = {sentence: facts_of(sentence) for sentence in sentences(_LIST_NUMBER.sub(" ", source))}
    return {sentence: facts for sentence, facts in found.items() if facts}


def kept_facts(asked: set[Fact], text: str) -> set[Fact]:
    """Those of the facts that stand in the text: numbers also in words ("three"), months and places also inflected."""
    lowered = text.casefold()
    words = _WORD.findall(lowered)
    numbers = {_normal(match, text) for match in _NUMBER.finditer(text)} | {
        _number_words()[word] for word in words if word in _number_words()
    }
    starts = set(words)
    return {fact for fact in asked if _stands(fact, numbers, lowered, starts)}


def enough(asked: set[Fact], kept: set[Fact]) -> bool:
    """Whether so many of the facts were kept that the text counts as a rewrite of its source."""
    return len(asked) < LEAST_FACTS or len(kept) >= min(KEPT_SHARE * len(asked), ENOUGH_FACTS)


def _stands(fact: Fact, numbers: set[str], lowered: str, words: set[str]) -> bool:
    if fact.kind == "number":
        return fact.value in numbers
    if fact.kind == "month":
        return any(name in words for name, month in _lists()["months"].items() if str(month) == fact.value)
    stem = fact.value.casefold()
    if stem in lowered:
        return True
    # "Bosnian" keeps "Bosnia", "spanisch" does not keep "Spanien": a stem of at least five letters decides
    stem = stem[: max(5, len(stem) - 2)]
    return any(word.startswith(stem) for word in words)


def _asked_number(match: re.Match[str], text: str) -> str | None:
    after = text[match.end() : match.end() + 14]
    return None if _DOSE.match(after) else _normal(match, text)


def _normal(match: re.Match[str], text: str) -> str:
    """The number without marks between its thousands, and multiplied by a word like "million" behind it."""
    number = match.group()
    number = re.sub(r"[.,'\u00a0\u202f ]", "", number) if re.search(r"[.,'\u00a0\u202f ]\d{3}", number) else number
    number = number.replace(",", ".")
    after = text[match.end() : match.end() + _FACTOR_CHARACTERS].lstrip(" -")
    factor = _lists()["factors"].get((_WORD.match(after) or [""])[0].casefold())
    return f"{float(number) * (factor or 1):.10g}"


def _months(text: str) -> set[Fact]:
    """Months beside a day or year: the bare word may be a name or a verb."""
    found = set()
    for match in _WORD.finditer(text):
        month = _lists()["months"].get(match.group().casefold())
        around = text[max(0, match.start() - 5) : match.start()] + text[match.end() : match.end() + 6]
        if month is not None and any(character.isdigit() for character in around):
            found.add(Fact("month", str(month)))
    return found


def _places(text: str) -> set[Fact]:
    """Places of the list, the longest name first; not before another capitalised word, where it may be a person's."""
    words = list(_WORD.finditer(text))
    found: set[Fact] = set()
    index = 0
    while index < len(words):
        length = next((n for n in (3, 2, 1) if _phrase(words, index, n, text) in _place_names()), 0)
        # before a capitalised word only where that is a place too
        if length and (
            not _CAPITAL_AFTER.match(text, words[index + length - 1].end())
            or _phrase(words, index + length, 1, text) in _place_names()
        ):
            found.add(Fact("place", _phrase(words, index, length, text)))
        index += max(1, length)
    return found


def _phrase(words: list[re.Match[str]], index: int, length: int, text: str) -> str:
    if index + length > len(words):
        return ""
    return text[words[index].start() : words[index + length - 1].end()]


@cache
def _lists() -> dict[str, Any]:
    return yaml.safe_load(Path(__file__).with_name("facts.yaml").read_text(encoding="utf-8"))


@cache
def _place_names() -> frozenset[str]:
    return frozenset(name for names in _lists()["places"].values() for name in names.split(", "))


@cache
def _number_words() -> dict[str, str]:
    return {word: str(number) for number, words in _lists()["number_words"].items() for word in words.split(", ")}
