"""The harmfulness tag: where it goes, how it is rendered in text, how it is put into and taken out of token ids.

Safety Pretraining (arXiv 2504.16980), algorithm on tag insertion: before each word but the first, with probability
`rate`, independently. The draws are a pure function of (seed, document id), so any sharding gives the same tags.
"""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from pipeline.words import word_spans
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from rephrasers.keyed_draws import keyed_uniforms


def tag_slots(number_of_words: int, document_id: str, rate: float, seed: int, min_tags: int = 0) -> list[int]:
    """1-based indices i >= 2 of the words before which a tag goes: those with draw u_i < `rate`.

    With `min_tags` = 1 a document for which nothing is drawn gets the slot with the smallest draw, if it has two words
    and `rate` > 0. Sets are nested in `rate`. Raises ValueError for a rate outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], not {rate}")
    draws = keyed_uniforms(seed, "tag", document_id, max(number_of_words, 0))[1:]
    slots = np.flatnonzero(draws < rate) + 2
    if not len(slots) and min_tags and rate > 0 and len(draws):
        slots = np.array([draws.argmin() + 2])
    return slots.tolist()


def render_tags(text: str, slots: Sequence[int]) -> str:
    """`text` with a tag for each slot: directly after the word before it, in front of the white space.

    Raises ValueError where the text holds the tag's spelling already: it could not be told from ours afterwards.
    """
    if HARMFULNESS_TAG in text:
        raise ValueError(f"the text holds {HARMFULNESS_TAG!r} already; remove_tags could not restore it")
    spans = word_spans(text)
    pieces, position = [], 0
    for slot in slots:
        end = spans[slot - 2][1]
        pieces += [text[position:end], HARMFULNESS_TAG]
        position = end
    return "".join(pieces) + text[position:]


def insert_tags(text: str, document_id: str, rate: float, seed: int, min_tags: int = 0) -> str:
    """`text` with its tags, for people and for text data sets. Raises ValueError for text that is tagged already."""
    return render_tags(text, tag_slots(len(word_spans(text)), document_id, rate, seed, min_tags))


def remove_tags(text: str) -> str:
    """`text` without tags: the exact inverse of `insert_tags`."""
    return text.replace(HARMFULNESS_TAG, "")


def tag_positions(text: str, offsets: Sequence[tuple[int, int]], slots: Sequence[int]) -> list[int]:
    """Before which token (index into `offsets`) each tag goes; sorted, distinct, never 0 and never past the end.

    `offsets` are the (start, end) characters of each token of the untagged text. A tag goes between the last token of
    one word and the first of the next; where one token covers the boundary, at the next clean boundary after it, or
    the last one before it. A slot without any clean boundary is left out.
    """
    if not slots:
        return []
    spans, count = word_spans(text), len(offsets)
    ends = [end for _, end in offsets]
    clean = [k for k in range(1, count) if ends[k - 1] <= offsets[k][0]]
    positions = set()
    for slot in slots:
        first = bisect_right(ends, spans[slot - 2][1])  # the first token that reaches beyond the word before
        after = bisect_right(clean, first - 1)
        if after < len(clean):
            positions.add(clean[after])
        elif clean:
            positions.add(clean[-1])
    return sorted(positions)


def insert_tag_ids(token_ids: Sequence[int], positions: Sequence[int], tag_token_id: int) -> list[int]:
    """`token_ids` with the tag's id before each of `positions`."""
    return np.insert(np.asarray(token_ids, dtype=np.int64), list(positions), tag_token_id).tolist()


def remove_tag_ids(token_ids: Sequence[int], tag_token_id: int) -> list[int]:
    """`token_ids` without the tag's id: the exact inverse of `insert_tag_ids`."""
    return [token for token in token_ids if token != tag_token_id]
