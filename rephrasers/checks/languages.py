"""Whether a text keeps to the language of its source, as a whole and paragraph by paragraph."""

import re

from rephrasers.language import identify_language

# An identification below these is no evidence; of a paragraph more is asked than of a whole text.
LEAST_PROBABILITY, LEAST_PARAGRAPH_PROBABILITY = 0.5, 0.8
LEAST_PARAGRAPH_LETTERS = 60
# Of the letters of a text, in paragraphs of another language: a quotation is no change of language.
MOST_FOREIGN = 0.25
# Codes that the identifier takes for one another.
_ALIKE = (
    frozenset({"no", "nn", "nb", "da"}),
    frozenset({"hr", "sr", "bs", "sh"}),
    frozenset({"id", "ms"}),
    frozenset({"zh", "wuu", "yue"}),
)


def off_language(text: str, source_language: str | None) -> bool:
    """True where the text, or more than a quarter of its letters in whole paragraphs, is in another language.

    source_language: fastText's code; None or an unknown language gives False.
    """
    if source_language in (None, "und"):
        return False
    language, probability = identify_language(text)
    if probability >= LEAST_PROBABILITY and not _same(language, source_language):
        return True
    foreign = total = 0
    for paragraph in re.split(r"\n+", text):
        letters = sum(character.isalpha() for character in paragraph)
        total += letters
        if letters >= LEAST_PARAGRAPH_LETTERS:
            language, probability = identify_language(paragraph)
            if probability >= LEAST_PARAGRAPH_PROBABILITY and not _same(language, source_language):
                foreign += letters
    return foreign > MOST_FOREIGN * total


def _same(language: str, source_language: str | None) -> bool:
    return language == source_language or any({language, source_language} <= group for group in _ALIKE)
