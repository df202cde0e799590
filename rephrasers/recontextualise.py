"""Recontextualised text (SafeWeb): the messages that ask for it, and the text out of the answer.

Source: Safety Pretraining (arXiv 2504.16980), the section on synthetic recontextualisation.
"""

import re

from rephrasers.prompt_files import FRAME_BEGIN, FRAME_END, Prompt, draw_style

_FENCE = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)


def rewrite_request(text: str, document_id: str, seed: int) -> tuple[Prompt, list[dict[str, str]]]:
    """The style drawn for a document and the chat messages that ask for its rewrite."""
    style = draw_style(seed, document_id)
    return style, style.messages(text)


def parse_text(answer: str) -> str:
    """The written text of an answer: without white space, a code fence or our frame lines around it."""
    text = answer.strip()
    text = text.removeprefix(FRAME_BEGIN).removesuffix(FRAME_END).strip()
    fenced = _FENCE.match(text)
    return fenced.group(1).strip() if fenced else text
