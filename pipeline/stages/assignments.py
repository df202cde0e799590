"""Which prompt each kind of text is written with, and how answers become a draft's text and turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rephrasers.attempts import style_of_attempt
from rephrasers.moralise import moral_request, parse_article
from rephrasers.prompt_files import load_prompt, piece_notes_sha256, recontextualisation_styles
from rephrasers.prompt_length import Messages
from rephrasers.recontextualise import join_pieces, parse_text, rewrite_requests
from rephrasers.refuse import Turn, draw_names, parse_dialogue, refusal_request, render_dialogue

Fits = Callable[[Messages], bool]


@dataclass(frozen=True)
class Assignment:
    """What is asked for one document (one request for each of its pieces), and the prompt that it was made with."""

    requests: list[Messages]
    style: str
    version: int
    sha256: str


def prompt_hashes(kind: str) -> dict[str, str]:
    """Name -> sha256 of every prompt file that a kind may be written with."""
    if kind != "rephrased":
        prompt = load_prompt({"refusal": "refuse", "moral": "moralise"}[kind])
        return {prompt.name: prompt.sha256}
    styles = {prompt.name: prompt.sha256 for prompt in recontextualisation_styles()}
    return {**styles, "piece_notes": piece_notes_sha256()}


def assign_rephrased(seed: int, document_id: str, text: str, longest: int, fits: Fits, attempt: int = 1) -> Assignment:
    """The style drawn for the document's attempt, and the requests for its pieces of at most `longest` characters."""
    style = style_of_attempt(seed, document_id, attempt)
    return Assignment(rewrite_requests(style, text, longest, fits), style.name, style.version, style.sha256)


def assign_refusal(text: str, longest: int, fits: Fits) -> Assignment:
    """A RefuseWeb dialogue about a document."""
    prompt = load_prompt("refuse")
    return Assignment([refusal_request(text, longest, fits)], prompt.name, prompt.version, prompt.sha256)


def assign_moral(turns: list[dict[str, str]] | None) -> Assignment | None:
    """A Moral Education article about a dialogue; None where the draft is no dialogue."""
    if not turns:
        return None
    prompt = load_prompt("moralise")
    return Assignment([moral_request(_turns(turns))], prompt.name, prompt.version, prompt.sha256)


def read_answers(
    kind: str, seed: int, document_id: str, answers: Sequence[str]
) -> tuple[str, list[dict[str, str]] | None]:
    """(text, turns) of a document's answers: one for each piece of a rephrased document, one in all for the other kinds.

    A dialogue's text has the speakers drawn for the document; other kinds have no turns.
    """
    if kind == "rephrased":
        return join_pieces(answers), None
    [answer] = answers
    if kind == "moral":
        return parse_article(answer), None
    turns = parse_dialogue(answer)
    if not turns:
        return parse_text(answer), []
    return render_dialogue(turns, draw_names(seed, document_id)), [{"role": t.role, "text": t.text} for t in turns]


def _turns(rows: list[dict[str, Any]]) -> list[Turn]:
    return [Turn(row["role"], row["text"]) for row in rows]
