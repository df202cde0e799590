"""Recontextualised text (SafeWeb): the messages that ask for it, and the text out of the answers.

Source: Safety Pretraining (arXiv 2504.16980), the section on synthetic recontextualisation. Pieces are ours.
"""

import re
from collections.abc import Callable, Sequence

from rephrasers.pieces import split_text
from rephrasers.prompt_files import FRAME_BEGIN, FRAME_END, Prompt

Messages = list[dict[str, str]]

_FENCE = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)


def rewrite_requests(style: Prompt, text: str, longest: int, fits: Callable[[Messages], bool]) -> list[Messages]:
    """The chat messages that ask for the rewrite of a document: one request for each piece, in order.

    longest: most characters of a piece. fits: whether messages leave room for an answer (`prompt_length.PromptFits`).
    """
    spans = split_text(text, longest, lambda piece: fits(style.messages(piece, 2, 3)))
    pieces = [text[start:end].strip() for start, end in spans]
    pieces = [piece for piece in pieces if piece] or [""]
    return [style.messages(piece, part, len(pieces)) for part, piece in enumerate(pieces, 1)]


def join_pieces(answers: Sequence[str]) -> str:
    """The rewrite of a document from the answers about its pieces: their texts in order, a blank line between."""
    return "\n\n".join(filter(None, map(parse_text, answers)))


def parse_text(answer: str) -> str:
    """The written text of an answer: without white space, a code fence or our frame lines around it."""
    text = answer.strip()
    text = text.removeprefix(FRAME_BEGIN).removesuffix(FRAME_END).strip()
    fenced = _FENCE.match(text)
    return fenced.group(1).strip() if fenced else text
