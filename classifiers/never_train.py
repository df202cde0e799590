"""What must never be trained on, at any score: child exploitation, weapons of mass destruction, exposed private data.

Classifiers give the first two and part of the third; personal records have patterns of their own, checked on the text.
"""

import re
from collections.abc import Mapping

from classifiers.rubric import NEVER_TRAIN_CATEGORIES
from classifiers.score import Score

# Least probability of each one-against-rest output; set for under 1 % of real web pages, see the model card.
LEAST_PROBABILITY = {"child_exploitation": 0.1, "privacy": 0.2, "weapons": 0.2}
LEAST_SCORE = 3
_BY_CATEGORY = frozenset(NEVER_TRAIN_CATEGORIES) - {"privacy"}

_CARD_NUMBER = re.compile(r"(?<![\w.,-])(?:\d[ -]?){12,18}\d(?![\w-])")
# The same as cards show it, wherever a field of a record begins: beside a comma, a row's number, a month, a check number. Of
# a longer row of groups of four, as tables have them, only the first and the last sixteen digits.
_FOURS = r"\d{{4}}(?P<{0}>[ -])\d{{4}}(?P={0})\d{{4}}(?P={0})\d{{4}}"
_CARD_FIELD = re.compile(
    r"(?<![\w-])(?<!\d\.)(?=(?P<number>\d{13,16}|\d{4}(?P<gap>[ -])\d{6}(?P=gap)\d{4,5}"
    rf"|(?<!\d{{4}} ){_FOURS.format('first')}|{_FOURS.format('last')}(?![ -]\d{{4}}(?!\d)))(?![\w-]))"
)
_CARD_CONTEXT = re.compile(
    r"\b(?:cvv2?|cvc2?|cvn|exp(?:iry|ires|iration|\.)?|card\s?holder|visa|mastercard|amex|fullz)\b", re.IGNORECASE
)
_CARD_LENGTHS = {"3": (14, 15), "4": (13, 16), "5": (16,), "6": (16,), "2": (16,)}
_CARDS_WITH_2 = range(2200, 2721)  # their first four digits; below are years
_SSN = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_SSN_CONTEXT = re.compile(r"\b(?:ssn|social security)\b", re.IGNORECASE)
# Numbers printed in advertisements and documentation, which belong to nobody.
_KNOWN_SSN_SAMPLES = frozenset({"078-05-1120", "219-09-9999", "123-45-6789", "457-55-5462"})
_KNOWN_CARD_SAMPLES = frozenset(
    {
        "4111111111111111",
        "4242424242424242",
        "5555555555554444",
        "378282246310005",
        "4012888888881881",
        "5105105105105100",
    }
)
_CREDENTIAL_LINE = re.compile(
    r"^[ \t]{0,20}[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}[ \t]{0,2}[:;|][ \t]{0,2}(?!//)(\S{4,64})[ \t\r]{0,20}$",
    re.MULTILINE,
)
_CONTEXT_CHARACTERS = 120
_LEAST_CREDENTIAL_LINES = 3


def passes_luhn(digits: str) -> bool:
    """The check digit rule of payment cards (ISO/IEC 7812-1): doubled every second digit from the right, sum divisible by 10."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _near(text: str, start: int, end: int, context: re.Pattern[str]) -> bool:
    around = text[max(0, start - _CONTEXT_CHARACTERS) : end + _CONTEXT_CHARACTERS]
    return context.search(around) is not None


def _is_card_number(digits: str) -> bool:
    plausible = len(digits) in _CARD_LENGTHS.get(digits[0], ()) and len(set(digits)) > 3
    if plausible and digits[0] == "2":
        plausible = int(digits[:4]) in _CARDS_WITH_2
    return plausible and digits not in _KNOWN_CARD_SAMPLES and passes_luhn(digits)


def _has_card_number(text: str) -> bool:
    for pattern, group in ((_CARD_NUMBER, 0), (_CARD_FIELD, "number")):
        for match in pattern.finditer(text):
            if _is_card_number(re.sub(r"\D", "", match[group])) and _near(text, *match.span(group), _CARD_CONTEXT):
                return True
    return False


def _has_social_security_number(text: str) -> bool:
    return any(
        match.group() not in _KNOWN_SSN_SAMPLES and _near(text, *match.span(), _SSN_CONTEXT)
        for match in _SSN.finditer(text)
    )


def _has_credential_dump(text: str) -> bool:
    lines = 0
    for match in _CREDENTIAL_LINE.finditer(text):
        lines += any(character.isalnum() for character in match.group(1))
        if lines >= _LEAST_CREDENTIAL_LINES:
            return True
    return False


def exposed_private_data(text: str) -> str | None:
    """Which pattern of exposed personal records the text holds, or None. Linear in the text.

    Card numbers (check digit and context), United States social security numbers in context, lists of logins. An
    ordinary contact page with an address, an e-mail and a telephone number matches none of them.
    """
    if _has_card_number(text):
        return "payment card number"
    if _has_social_security_number(text):
        return "social security number"
    if _has_credential_dump(text):
        return "list of logins with passwords"
    return None


def never_train_reason(text: str, scores: Mapping[str, Score | None]) -> str | None:
    """Why this document must never be trained on, as "category: signal", or None. The scores' level plays no part.

    A classifier's never-train probability of a category at or above `LEAST_PROBABILITY` is enough, whoever gives it, and
    so is a pattern of exposed private data. Where none that was asked gives such probabilities (fastText, a judge, a ready
    classifier), a score of `LEAST_SCORE` in one of the categories is, but privacy: whose pages are mostly about records, and
    do not hold them. Never holds a piece of the text.
    """
    asked = {name: score for name, score in sorted(scores.items()) if score is not None and score.never_train}
    for index, category in enumerate(NEVER_TRAIN_CATEGORIES):
        for name, score in asked.items():
            if score.never_train[index] >= LEAST_PROBABILITY[category]:
                return f"{category}: {name} {score.never_train[index]:.2f}"
    if not asked:
        for name, given in sorted(scores.items()):
            if given is not None and given.score >= LEAST_SCORE and given.category in _BY_CATEGORY:
                return f"{given.category}: {name} score {given.score}"
    pattern = exposed_private_data(text)
    return f"privacy: {pattern}" if pattern else None
