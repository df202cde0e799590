"""Files of prompts without answers, draws from them, and what keeps evaluation prompts out of them."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

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


class _HasText(Protocol):
    @property
    def text(self) -> str: ...


PromptLike = TypeVar("PromptLike", bound=_HasText)


class HeldOut:
    """The evaluation prompts of some files, which must not be trained on."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Raises FinetuneDataError as `read_prompts`."""
        self._files: dict[tuple[str, ...], str] = {}
        for path in files:
            for prompt in read_prompts(path):
                self._files.update(dict.fromkeys(_runs(prompt.text), path.name))

    def file_of(self, text: str) -> str | None:
        """The name of a file one of whose prompts shares OVERLAP_WORDS words in a row with `text`, or is the same but for case
        and punctuation; None: no prompt is."""
        return next((self._files[run] for run in _runs(text) if run in self._files), None)

    def without(self, prompts: Sequence[PromptLike]) -> list[PromptLike]:
        """Those that overlap no evaluation prompt, in order."""
        return [prompt for prompt in prompts if self.file_of(prompt.text) is None]


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


def draw_unseen(name: str, path: Path, count: int | None, seed: int, held_out: HeldOut) -> tuple[list[Prompt], int]:
    """(`count` prompts of a file that overlap no evaluation prompt, how many overlapped one and were dropped before the draw);
    `count` None: all that are left, in order.

    Raises FinetuneDataError where some were dropped and fewer than asked for are left, or none. `name` stands in the message.
    """
    prompts = read_prompts(path)
    kept = held_out.without(prompts)
    dropped = len(prompts) - len(kept)
    if dropped and len(kept) < (count or 1):
        raise FinetuneDataError(
            f"{name}: {dropped} of {len(prompts)} prompts of {path} overlap held-out ones and were dropped, so {len(kept)} are "
            f"left, and {count or 1} are asked for: ask for fewer, or add other prompts to the file"
        )
    return kept if count is None else draw_prompts(kept, count, seed), dropped


def dropped_line(dropped: Mapping[str, int]) -> str | None:
    """What a run says about the prompts that it dropped, by set; None where there were none."""
    counts = ", ".join(f"{count} of {name}" for name, count in dropped.items() if count)
    return f"dropped, since they overlap held-out prompts: {counts}" if counts else None


def refuse_overlap(sets: Iterable[tuple[str, Sequence[Prompt]]], held_out: Sequence[Path]) -> None:
    """Raises FinetuneDataError where a prompt of a named set overlaps an evaluation prompt (`HeldOut.file_of`). Names ids,
    never texts."""
    evaluation = HeldOut(held_out)
    for name, prompts in sets:
        for prompt in prompts:
            found = evaluation.file_of(prompt.text)
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
