"""Files of prompts without answers, draws from them, and the check that no evaluation prompt is among them."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from finetune.chat_data import read_json_lines
from finetune.errors import FinetuneDataError
from rephrasers.keyed_draws import keyed_uniforms

PROMPT_KEYS: Final = ("prompt", "instruction", "text")
# Near duplicates share a run of so many words; a shorter prompt is compared whole.
OVERLAP_WORDS: Final = 8
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Prompt:
    """`id`: the row's, else a hash of its text."""

    id: str
    text: str


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a file: JSON lines, or one JSON list, of objects with `prompt` (or `instruction`, or `text`).

    Raises FinetuneDataError that names the file and the row.
    """
    rows = _json_list(path) if path.suffix == ".json" else read_json_lines(path)
    prompts = [_prompt(row, place) for place, row in rows]
    ids = [prompt.id for prompt in prompts]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise FinetuneDataError(f"{path}: two prompts have the id {twice}; leave one out, or give them ids")
    return prompts


def draw_prompts(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` of the prompts, drawn by their ids, in the drawn order; all of them, where there are no more."""
    key = {prompt.id: float(keyed_uniforms(seed, "prompts", prompt.id, 1)[0]) for prompt in prompts}
    return sorted(prompts, key=lambda prompt: key[prompt.id])[:count]


def refuse_overlap(sets: Iterable[tuple[str, Sequence[Prompt]]], held_out: Sequence[Path]) -> None:
    """Raises FinetuneDataError where a prompt of a named set shares OVERLAP_WORDS words in a row with an evaluation prompt,
    or is the same prompt but for case and punctuation. Names ids, never texts."""
    runs: dict[tuple[str, ...], str] = {}
    for path in held_out:
        for prompt in read_prompts(path):
            runs.update(dict.fromkeys(_runs(prompt.text), path.name))
    for name, prompts in sets:
        for prompt in prompts:
            found = next((runs[run] for run in _runs(prompt.text) if run in runs), None)
            if found is not None:
                raise FinetuneDataError(
                    f"{name}: the prompt {prompt.id} overlaps a prompt of {found}, which is held out for evaluation; take it "
                    "out of the training file"
                )


def _runs(text: str) -> list[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    if len(words) <= OVERLAP_WORDS:
        return [tuple(words)] if words else []
    return [tuple(words[start : start + OVERLAP_WORDS]) for start in range(len(words) - OVERLAP_WORDS + 1)]


def _json_list(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FinetuneDataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
        raise FinetuneDataError(f"{path}: expected a list of at least one object")
    return [(f"{path}, row {number}", value) for number, value in enumerate(values, 1)]


def _prompt(row: dict[str, Any], place: str) -> Prompt:
    key = next((key for key in PROMPT_KEYS if key in row), None)
    if key is None or not isinstance(row[key], str) or not row[key].strip():
        raise FinetuneDataError(f"{place}: no text under one of {', '.join(PROMPT_KEYS)}")
    digest = hashlib.blake2b(row[key].encode(), digest_size=16).hexdigest()
    return Prompt(str(row.get("id", digest)), row[key])
