"""Replaces handles, URLs, e-mail addresses and telephone numbers by a fixed word each, so that no classifier learns them."""

import re

# Order matters: an e-mail address holds something that looks like a handle, and a URL may hold both.
_URL = re.compile(r"(?:\b(?:https?|ftp)://|\bwww\.)[^\s<>\"')\]]{1,2048}", re.IGNORECASE)
_EMAIL = re.compile(
    r"(?<![\w.+-])[\w.+-]{1,64}\s?(?:@|\(at\)|\[at\])\s?[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", re.IGNORECASE
)
_BARE_DOMAIN = re.compile(
    r"\b[\w-]{1,63}(?:\.[\w-]{1,63}){0,3}\.(?:com|org|net|edu|gov|info|io|co|de|uk|fr|ly|me)\b(?:/[^\s<>\"')\]]{0,2048})?",
    re.IGNORECASE,
)
_HANDLE = re.compile(r"(?<![\w@])@\w[\w.-]{0,63}|(?<![\w/])/?u/[\w-]{2,63}\b")
_PHONE = re.compile(r"(?<![\w.])(?:\+|\(\+?)?\d[\d\s().\-/]{6,22}\d(?!\w)")

# What a text needs to hold to match at all: found many times faster than that the full patterns match nowhere.
_NEEDED_BY_BARE_DOMAIN = re.compile(r"\.(?:com|org|net|edu|gov|info|io|co|de|uk|fr|ly|me)\b", re.IGNORECASE)
_NEEDED_BY_PHONE = re.compile(r"\d[\d\s().\-/]{6,22}\d")

URL_WORD, EMAIL_WORD, HANDLE_WORD, PHONE_WORD = "maskedurl", "maskedemail", "maskedhandle", "maskedphone"
MASK_WORDS = (URL_WORD, EMAIL_WORD, HANDLE_WORD, PHONE_WORD)

_LEAST_PHONE_DIGITS, _MOST_PHONE_DIGITS = 7, 15  # E.164 allows 15; fewer than 7 would hit years and prices


def _mask_phone(match: re.Match[str]) -> str:
    digits = sum(character.isdigit() for character in match.group())
    return PHONE_WORD if _LEAST_PHONE_DIGITS <= digits <= _MOST_PHONE_DIGITS else match.group()


def mask_identifiers(text: str) -> str:
    """The text with every handle, URL, e-mail address and telephone number replaced by its mask word. Linear in the text."""
    lower = text.lower()
    if "://" in lower or "www." in lower:
        text = _URL.sub(URL_WORD, text)
    if "@" in lower or "(at)" in lower or "[at]" in lower:
        text = _EMAIL.sub(EMAIL_WORD, text)
    if _NEEDED_BY_BARE_DOMAIN.search(text):
        text = _BARE_DOMAIN.sub(URL_WORD, text)
    if "@" in text or "u/" in text:
        text = _HANDLE.sub(HANDLE_WORD, text)
    return _PHONE.sub(_mask_phone, text) if _NEEDED_BY_PHONE.search(text) else text
