"""Counting phrases in text: one automaton for all of them, whole words only."""

import unicodedata
from collections.abc import Mapping

from ahocorasick_rs import AhoCorasick, Implementation

from classifiers.errors import DataError
from pipeline.report.phrase_lists import load_phrase_lists

_HYPHENS = "-\u2010\u2011"
_ASCII_FOLD = bytes(32 if chr(b).isspace() or chr(b) in _HYPHENS else ord(chr(b).lower()) for b in range(128)) + bytes(
    range(128, 256)
)


def fold(text: str) -> str:
    """The form in which text and phrases are compared; see `PhraseCounter` for the rules."""
    if text.isascii():
        # The same rules in two passes over bytes: several times faster, and most web text comes this way.
        folded = text.encode("ascii").translate(_ASCII_FOLD).decode("ascii")
    else:
        folded = unicodedata.normalize("NFC", text).casefold().replace("\u2019", "'")
        for hyphen in _HYPHENS:
            folded = folded.replace(hyphen, " ")
    return " ".join(folded.split())


def is_word_character(character: str) -> bool:
    """Letters and digits of any script, combining marks and the underscore: what may not touch a phrase."""
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


class PhraseCounter:
    """Counts the phrases of each category in a text.

    The rules (acceptance test C3):

    - text and phrases are compared after NFC and Unicode case folding;
    - a hyphen counts as a space, any run of white space as one space (so a phrase is found across a line end, and
      `self-harm` is `self harm`), a typographic apostrophe as a straight one; other punctuation stands for itself,
      so that a phrase never reaches over a comma or a full stop;
    - a hit must not touch a word character (`is_word_character`) on either side: `rape` is not in `grape`;
    - overlapping phrases count each: "suicide note" is a hit of `suicide` and a hit of `suicide note`.

    Args: `lists`, category -> phrases; without it the 14 lists of the card. Two phrases of one folded form raise
    DataError.
    """

    def __init__(self, lists: Mapping[str, tuple[str, ...]] | None = None) -> None:
        lists = load_phrase_lists() if lists is None else lists
        self.categories = tuple(lists)
        self.phrases = tuple(phrase for phrases in lists.values() for phrase in phrases)
        self.category_of = tuple(index for index, phrases in enumerate(lists.values()) for _ in phrases)
        folded = [fold(phrase) for phrase in self.phrases]
        if len(set(folded)) != len(folded) or "" in folded:
            raise DataError("phrase lists: two phrases are the same after case folding, or one is empty")
        self._automaton = AhoCorasick(folded, implementation=Implementation.DFA)

    def hits(self, text: str) -> list[int]:
        """Indices into `phrases`, one for each hit, in the order in which the hits end."""
        folded = fold(text)
        found = []
        for phrase, start, end in self._automaton.find_matches_as_indexes(folded, overlapping=True):
            if start > 0 and is_word_character(folded[start - 1]):
                continue
            if end < len(folded) and is_word_character(folded[end]):
                continue
            found.append(phrase)
        return found

    def count(self, text: str) -> dict[str, int]:
        """Category -> number of hits in `text`, with every category named."""
        counts = dict.fromkeys(self.categories, 0)
        for phrase in self.hits(text):
            counts[self.categories[self.category_of[phrase]]] += 1
        return counts
