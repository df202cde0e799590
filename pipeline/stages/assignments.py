"""Which prompt each kind of text is written with, and how an answer becomes a draft's text and turns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rephrasers.moralise import moral_request, parse_article
from rephrasers.prompt_files import load_prompt, recontextualisation_styles
from rephrasers.recontextualise import parse_text, rewrite_request
from rephrasers.refuse import Turn, draw_names, parse_dialogue, refusal_request, render_dialogue


@dataclass(frozen=True)
class Assignment:
    """The messages for one document, and the prompt that they were made with."""

    messages: list[dict[str, str]]
    style: str
    version: int
    sha256: str


def prompt_hashes(kind: str) -> dict[str, str]:
    """Name -> sha256 of every prompt file that a kind may be written with."""
    names = {"refusal": ["refuse"], "moral": ["moralise"]}.get(kind)
    prompts = recontextualisation_styles() if names is None else [load_prompt(name) for name in names]
    return {prompt.name: prompt.sha256 for prompt in prompts}


def assign_rephrased(seed: int, document_id: str, text: str) -> Assignment:
    """The style drawn for the document, and its messages."""
    style, messages = rewrite_request(text, document_id, seed)
    return Assignment(messages, style.name, style.version, style.sha256)


def assign_refusal(text: str) -> Assignment:
    """A RefuseWeb dialogue about a document."""
    prompt = load_prompt("refuse")
    return Assignment(refusal_request(text), prompt.name, prompt.version, prompt.sha256)


def assign_moral(turns: list[dict[str, str]] | None) -> Assignment | None:
    """A Moral Education article about a dialogue; None where the draft is no dialogue."""
    if not turns:
        return None
    prompt = load_prompt("moralise")
    return Assignment(moral_request(_turns(turns)), prompt.name, prompt.version, prompt.sha256)


def read_answer(kind: str, seed: int, document_id: str, answer: str) -> tuple[str, list[dict[str, str]] | None]:
    """(text, turns) of an answer. A dialogue's text has the speakers drawn for the document; others have no turns."""
    if kind != "refusal":
        parse: Callable[[str], str] = parse_article if kind == "moral" else parse_text
        return parse(answer), None
    turns = parse_dialogue(answer)
    if not turns:
        return parse_text(answer), []
    return render_dialogue(turns, draw_names(seed, document_id)), [{"role": t.role, "text": t.text} for t in turns]


def _turns(rows: list[dict[str, Any]]) -> list[Turn]:
    return [Turn(row["role"], row["text"]) for row in rows]
