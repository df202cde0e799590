"""Rules about the words themselves: is there text, does it go round in circles, is it the source again."""

import re
import zlib
from collections import Counter
from itertools import pairwise

# Fewer letters than this are no text.
LEAST_LETTERS = 20
LENGTH_RATIO = (0.3, 3.0)
# Share of a draft's word sequences that stand in the source too. Rewrites share terms and names, not sentences.
COPIED_NGRAM, COPIED_SHARE = 6, 0.4
# A passage of so many words (or characters of a script without spaces) in one piece is a copy in any text.
LONGEST_COPIED_RUN = 30
LOOP_NGRAM, LOOP_SHARE = 5, 0.3
SAME_WORD_IN_A_ROW = 6
SAME_SENTENCE = 4
# Ordinary prose compresses to 0.4-0.6 of its size in pieces of this many bytes; loops to under 0.2.
WINDOW_BYTES, LOOP_COMPRESSION = 4000, 0.22
_SHORTEST_WINDOW = 400
# A last line that is shorter is a heading, a signature or a closing word.
_LEAST_LAST_WORDS = 6
_LIST_LINE = re.compile(r"^\s*(?:[-*+•>#|(\[]|\d{1,2}[.)])")
# Thai, Lao, Burmese, Khmer; kana and Han.
_SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s*|\n+")


def is_empty(text: str) -> bool:
    """True for a text with fewer than 20 letters."""
    return sum(character.isalpha() for character in text) < LEAST_LETTERS


def units(text: str) -> list[str]:
    """The lower-case words of a text; its characters where most letters are of a script without spaces between words."""
    words = re.findall(r"\w+", text.lower())
    spaceless = sum(len(letters) for letters in _SPACELESS.findall(text))
    return words if 2 * spaceless <= sum(map(len, words)) else [character for word in words for character in word]


def ngrams(items: list[str], n: int) -> list[tuple[str, ...]]:
    """All sequences of n neighbours, in order."""
    return list(zip(*(items[start:] for start in range(n)), strict=False))


def repeated_share(text: str) -> float:
    """Share of 5-grams that stood in the text before, in [0, 1]; 0 for fewer than 20 words."""
    items = units(text)
    grams = ngrams(items, LOOP_NGRAM)
    return 1 - len(set(grams)) / len(grams) if len(items) >= 20 else 0.0


def compression(text: str) -> float:
    """Lowest zlib ratio (compressed / raw bytes) over windows of 4,000 bytes; 1 where there are under 400 bytes."""
    raw = text.encode(errors="replace")
    windows = (raw[start : start + WINDOW_BYTES] for start in range(0, len(raw), WINDOW_BYTES))
    return min((len(zlib.compress(w)) / len(w) for w in windows if len(w) >= _SHORTEST_WINDOW), default=1.0)


def loops(text: str) -> bool:
    """True for a text that goes round in circles: words, sentences or longer passages again and again."""
    words = re.findall(r"\w+", text.lower())
    run = 1
    for before, word in pairwise(words):
        run = run + 1 if word == before and not word.isdigit() else 1
        if run >= SAME_WORD_IN_A_ROW:
            return True
    sentences = Counter(s.strip().lower() for s in _SENTENCE_END.split(text) if len(s.split()) >= 4)
    if sentences and max(sentences.values()) >= SAME_SENTENCE:
        return True
    return repeated_share(text) > LOOP_SHARE or compression(text) < LOOP_COMPRESSION


def copied_share(text: str, source: str) -> float:
    """Share of the text's 6-grams that stand in the source, in [0, 1]; 0 for texts too short to tell (12 words)."""
    items = units(text)
    if len(items) < 2 * COPIED_NGRAM:
        return 0.0
    known = set(ngrams(units(source), COPIED_NGRAM))
    grams = ngrams(items, COPIED_NGRAM)
    return sum(gram in known for gram in grams) / len(grams)


def copies(text: str, source: str) -> bool:
    """True where more than 40 % of the text's 6-grams stand in the source, or 30 words of it in one piece."""
    return copied_share(text, source) > COPIED_SHARE or copied_run(text, source) >= LONGEST_COPIED_RUN


def copied_run(text: str, source: str) -> int:
    """Length in words of the longest passage that both share, from 6 words on; 0 where there is none."""
    known = set(ngrams(units(source), COPIED_NGRAM))
    longest = run = 0
    for gram in ngrams(units(text), COPIED_NGRAM):
        run = run + 1 if gram in known else 0
        longest = max(longest, run)
    return longest + COPIED_NGRAM - 1 if longest else 0


def ends_abruptly(text: str) -> bool:
    """True where the last line is a sentence that is broken off: it ends with a letter or a comma.

    Lines of lists and short last lines may do without an end mark; so do scripts that have none (Thai, Lao, Khmer).
    """
    lines = text.rstrip().splitlines()
    last = lines[-1].rstrip("*_\"'”’»“ ") if lines else ""
    if not last or "\u0e00" <= last[-1] <= "\u0eff" or "\u1780" <= last[-1] <= "\u17ff":
        return False
    if last[-1] in ",;-–—(，、；":
        return True
    return last[-1].isalpha() and len(last.split()) >= _LEAST_LAST_WORDS and not _LIST_LINE.match(last)


def length_ratio(text: str, source: str) -> float:
    """Characters of the text over characters of the source, runs of white space counted once."""
    return len(" ".join(text.split())) / max(1, len(" ".join(source.split())))
