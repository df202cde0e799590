"""Moral Education: an article about the principle behind a refusal, written from a RefuseWeb dialogue.

Source: Safety Pretraining (arXiv 2504.16980), the section on moral education: eight guidelines, in our own words in
`prompts/moralise.yaml`.
"""

from rephrasers.prompt_files import load_prompt
from rephrasers.recontextualise import parse_text
from rephrasers.refuse import Turn, render_dialogue


def moral_request(turns: list[Turn]) -> list[dict[str, str]]:
    """The chat messages that ask for an article about an accepted dialogue (plain speaker names)."""
    return load_prompt("moralise").messages(render_dialogue(turns))


def parse_article(answer: str) -> str:
    """The article of an answer."""
    return parse_text(answer)
