"""The phrase lists of `phrases.yaml` as compiled patterns, and where in a text each list is looked for."""

import re
from functools import cache
from pathlib import Path

import yaml

# The part of a text in which talk about the task, or a refusal to write, stands.
EDGE_CHARACTERS = 300
QUOTED = re.compile(r'"[^"\n]{0,300}"|“[^”\n]{0,300}”|«[^»\n]{0,300}»|„[^“”\n]{0,300}[“”]')
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'"})


def has_meta_talk(text: str, ends_too: bool = True) -> bool:
    """True where the model talks about its task or itself instead of writing: "Here is the rewritten text:".

    ends_too: False for dialogues, in which an offer of help at the end is part of a good refusal.
    """
    return (
        _found("meta_talk_anywhere", text)
        or _found("meta_talk_at_start", text[:EDGE_CHARACTERS])
        or (ends_too and _found("meta_talk_at_end", text[-EDGE_CHARACTERS:]))
    )


def refuses_to_write(text: str) -> bool:
    """True where a rewrite or article begins with a refusal to write it; what stands in quotation marks does not count."""
    return _found("refusal_to_write", QUOTED.sub(" ", text[:EDGE_CHARACTERS]))


def declines(text: str) -> bool:
    """True where a turn says no to a request and does not do it all the same (English, and basic German, French,
    Spanish wordings)."""
    return _found("declining", text) and not _found("yielding", text)


def has_operational_detail(text: str) -> bool:
    """True where a request holds steps, code, amounts, addresses, or numbers as long as an account or telephone."""
    return _found("operational_detail", text)


def _found(name: str, text: str) -> bool:
    return _patterns()[name].search(text.translate(_APOSTROPHES)) is not None


@cache
def _patterns() -> dict[str, re.Pattern[str]]:
    lists = yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))
    flags = re.IGNORECASE | re.MULTILINE
    return {name: re.compile("|".join(f"(?:{phrase})" for phrase in phrases), flags) for name, phrases in lists.items()}
