"""RefuseWeb: a dialogue in which a request that carries the problem of an unsafe text is declined well.

Source: Safety Pretraining (arXiv 2504.16980), the section on RefuseWeb: dialogue of two, five guidelines, and speakers
renamed for the corpus. The labels and their keyed draw are ours.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from classifiers.chunks import bounded_text
from rephrasers.keyed_draws import keyed_uniforms
from rephrasers.pieces import SHORTEST_PIECE
from rephrasers.prompt_files import Prompt, load_prompt
from rephrasers.recontextualise import Messages, parse_text

Role = Literal["user", "assistant"]
PLAIN_NAMES = ("User", "Assistant")
KEEP_PLAIN_NAMES = 0.10
PASSAGES = 4

# "User:", "**User:**", "**User**:", "User 1:", "### Assistant:", "- User:" at a line's start.
_SPEAKER = re.compile(
    r"^[ \t>#*_-]{0,8}(?P<role>user|assistant)(?:[ \t]?\d)?[ \t]*+[*_]{0,3}+[ \t]*+[:：][*_]{0,3}[ \t]*",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Turn:
    """What one speaker says once."""

    role: Role
    text: str


def refusal_request(
    text: str, longest: int, fits: Callable[[Messages], bool], prompt: Prompt | None = None
) -> Messages:
    """The chat messages that ask for one dialogue about a text, with the prompt `refuse` or another of its kind.

    Of a text longer than `longest` characters, or whose prompt does not fit, four evenly spaced passages are shown: the
    dialogue is about its problem, not about each of its facts, and the problem may stand anywhere in it.
    """
    prompt = prompt or load_prompt("refuse")
    shown = bounded_text(text, longest, PASSAGES)
    while not fits(messages := prompt.messages(shown)) and len(shown) > SHORTEST_PIECE:
        shown = bounded_text(text, len(shown) // 2, PASSAGES)
    return messages


def parse_dialogue(answer: str) -> list[Turn]:
    """The turns of an answer, in order; [] where no line begins with a speaker.

    Speakers may be set in bold or as headings. What stands before the first one is dropped; turns without text are
    left out; the shape (who speaks when) is for verification to judge.
    """
    text = parse_text(answer)
    speakers = list(_SPEAKER.finditer(text))
    turns = []
    for index, match in enumerate(speakers):
        end = speakers[index + 1].start() if index + 1 < len(speakers) else len(text)
        said = text[match.end() : end].strip()
        if said:
            role: Role = "user" if match["role"].lower() == "user" else "assistant"
            turns.append(Turn(role, said))
    return turns


def draw_names(seed: int, document_id: str) -> tuple[str, str]:
    """The labels of (user, assistant) in a document: two different ones; 10 % keep "User" and "Assistant".

    Stream "names": u_1 decides whether the plain names stay, u_2 and u_3 draw the asking and the answering label.
    """
    keep, asking, answering = keyed_uniforms(seed, "names", document_id, 3)
    if keep < KEEP_PLAIN_NAMES:
        return PLAIN_NAMES
    askers, answerers = _labels()
    asker = askers[int(asking * len(askers))]
    others = [label for label in answerers if label != asker]
    return asker, others[int(answering * len(others))]


def render_dialogue(turns: list[Turn], names: tuple[str, str] = PLAIN_NAMES) -> str:
    """The dialogue as text: one paragraph a turn, each begun by its speaker's label and a colon.

    Labels stand at line starts only: the words "user" and "assistant" inside what is said stay.
    """
    user, assistant = names
    return "\n\n".join(f"{user if turn.role == 'user' else assistant}: {turn.text}" for turn in turns)


@cache
def _labels() -> tuple[list[str], list[str]]:
    """(asking, answering) labels."""
    values = yaml.safe_load(Path(__file__).with_name("speaker_labels.yaml").read_text(encoding="utf-8"))
    return values["names"] + values["asking"], values["names"] + values["answering"]
