"""What a word is, in every script: the unit before which a harmfulness tag may stand."""

import regex

# Han characters are a unit each, with the marks and punctuation that follow (the usual convention where Chinese and
# Japanese are measured in words); kana runs stay whole. Other scripts without spaces between words (Thai, Lao, Khmer,
# Myanmar) set spaces between phrases: there a phrase is the unit, so that a tag never falls inside a word.
_WORD = regex.compile(
    r"\p{Han}[\p{M}\p{P}]*|[\p{Hiragana}\p{Katakana}ー]+[\p{M}\p{P}]*|[^\s\p{Han}\p{Hiragana}\p{Katakana}ー]+"
)


def word_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each word, in characters, in order; the characters between two spans are white space only."""
    return [match.span() for match in _WORD.finditer(text)]
