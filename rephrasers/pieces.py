"""Long documents in pieces: cut at paragraph or sentence borders, so that each fits the writer's context.

The pieces cover the document without gap or overlap. How many a document may need is the recipe's budget; beyond it the
document is dropped, because a rewrite of samples would leave out facts without saying so.
"""

import re
from collections.abc import Callable

Span = tuple[int, int]

# The best border first: paragraph, line, sentence, word. What matches stays with the piece before.
_BORDERS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"\n\s*"),
    re.compile(r"[.!?…][\"'”’»)\]]{0,3}\s+|[。！？]\s*"),
    re.compile(r"\s+"),
)
# Shorter pieces are not cut again: a prompt that is too long with so little text is too long without it.
SHORTEST_PIECE = 200


def split_text(text: str, longest: int, fits: Callable[[str], bool]) -> list[Span]:
    """(start, end) of the pieces of a text, in order, contiguous; one for a text that is short enough, also an empty one.

    longest: most characters of a piece. fits: whether a piece's prompt leaves room for its answer; a piece that does not
    fit is halved until it does or is shorter than 200 characters. Pieces are of similar size, as the borders allow.
    """
    spans: list[Span] = []
    waiting = [(0, len(text), longest)]
    while waiting:
        start, end, most = waiting.pop()
        length = end - start
        if length > most:
            cut = _border(text, start, start + length // -(-length // most), min(end, start + most))
            waiting += [(cut, end, most), (start, cut, most)]
        elif length > SHORTEST_PIECE and not fits(text[start:end]):
            waiting.append((start, end, -(-length // 2)))
        else:
            spans.append((start, end))
    return spans


def _border(text: str, start: int, target: int, last: int) -> int:
    """Where to cut: the border nearest to `target`, of the best kind that there is between half-way to it and `last`."""
    first = start + max(1, (target - start) // 2)
    for pattern in _BORDERS:
        found = [match.end() for match in pattern.finditer(text, first, last)]
        if found:
            return min(found, key=lambda place: abs(place - target))
    return target
