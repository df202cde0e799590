"""Texts and chats of one's own from JSON lines, filtered and divided by their ids; each row as a text, or as a chat."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from classifiers.errors import DataError
from finetune.chat_data import checked_messages, read_json_lines
from pipeline.atomic_files import file_sha256, write_text
from rephrasers.keyed_draws import keyed_uniforms
from rephrasers.refuse import Turn, draw_names, render_dialogue

# A speaker's turn in a dialogue that is written as text: a label of up to three words at a line's start.
_TURN = re.compile(r"^(?P<label>[A-Z][\w.'’-]*(?: [\w.'’-]+){0,2}): (?P<said>.+?)(?=^[A-Z][\w.'’-]*(?: [\w.'’-]+){0,2}: |\Z)",
                   re.MULTILINE | re.DOTALL)  # fmt: skip


class OwnTexts(BaseModel):
    """Rows of one file: `{"messages": [...]}` or `{"text": ...}`, with an optional `id` and `score`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="JSON lines")
    where: dict[str, tuple[Any, ...]] = Field({}, description="only rows whose key has one of these values")
    part: tuple[float, float] = Field(
        (0.0, 1.0),
        description="only rows whose draw, a hash of their id, is at least the first and below the second number: the same "
        "file can serve pretraining and tuning without a row in both",
    )

    @model_validator(mode="after")
    def _part_is_one(self) -> Self:
        if not 0 <= self.part[0] < self.part[1] <= 1:
            raise ValueError(f"part {list(self.part)}: two numbers from 0 to 1, the first below the second")
        return self

    def identity(self) -> dict[str, Any]:
        """What its rows depend on. Raises DataError for a file that cannot be read."""
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file; texts and chats are relative to where the command runs")
        where = {key: list(values) for key, values in self.where.items()}
        return {"file": self.path.name, "sha256": file_sha256(self.path), "where": where, "part": list(self.part)}


@dataclass(frozen=True)
class OwnRow:
    """One row; exactly one of `text` and `messages` is there. `level`: its score by the rubric, None where it has none."""

    id: str
    text: str | None
    messages: tuple[Mapping[str, str], ...] | None
    level: int | None
    not_learnt: str = ""  # of a chat, as `finetune.chat_data` has it

    def as_text(self) -> str:
        """The text; a chat as a dialogue whose speakers are named by the row's id (Safety Pretraining renames them)."""
        if self.text is not None:
            return self.text
        assert self.messages is not None
        turns = [Turn(m["role"], m["content"]) for m in self.messages if m["role"] in ("user", "assistant")]  # type: ignore[arg-type]
        return render_dialogue(turns, draw_names(0, self.id))

    def as_messages(self) -> tuple[Mapping[str, str], ...] | None:
        """The chat; of a text, the dialogue that it is, through its last answer. None: it is no dialogue of two in turn."""
        return self.messages if self.messages is not None else dialogue_messages(self.text or "")


def dialogue_messages(text: str) -> tuple[Mapping[str, str], ...] | None:
    """The turns of a dialogue written as `Label: ...` paragraphs, as messages: who speaks first is the user. Ends with the
    last answer. None where it does not begin with a label, has not two speakers in turn, or no answer."""
    turns = [(match["label"], match["said"].strip()) for match in _TURN.finditer(text)]
    labels = [label for label, _ in turns]
    if len(turns) < 2 or not text.startswith(f"{labels[0]}: ") or len(set(labels)) != 2:
        return None
    if any(first == second for first, second in pairwise(labels)) or not all(s for _, s in turns):
        return None
    kept = turns[: len(turns) // 2 * 2]
    return tuple(
        {"role": "assistant" if number % 2 else "user", "content": said} for number, (_, said) in enumerate(kept)
    )


def read_own(files: Sequence[OwnTexts]) -> list[OwnRow]:
    """The rows of all files that pass their filters, in order, without repetitions (same id and content: two files may
    both number their rows). Raises DataError that names file and line, and where nothing passes a file's filters."""
    rows: dict[tuple[str, str], OwnRow] = {}
    for file in files:
        passed = 0
        for place, value in read_json_lines(file.path):
            if any(value.get(key) not in values for key, values in file.where.items()):
                continue
            row = _row(value, place)
            if file.part[0] <= float(keyed_uniforms(0, "own-texts", row.id, 1)[0]) < file.part[1]:
                rows.setdefault((row.id, json.dumps([row.text, row.messages], sort_keys=True)), row)
                passed += 1
        if not passed:
            raise DataError(f"{file.path}: no row passes where {dict(file.where)} and part {list(file.part)}")
    return list(rows.values())


def write_chats(rows: Sequence[OwnRow], path: Path) -> int:
    """Writes the rows that are chats as `safetrove finetune` reads them; returns how many are not, and are left out.

    Raises DataError where none is.
    """
    chats = [(row, messages) for row in rows if (messages := row.as_messages()) is not None]
    if not chats:
        raise DataError(
            f"{path.stem}: none of {len(rows)} rows is a chat: give rows with `messages`, or dialogues of two"
        )
    values = [
        {"id": row.id, "messages": list(messages)} | ({"not_learnt": row.not_learnt} if row.not_learnt else {})
        for row, messages in chats
    ]
    lines = [json.dumps(value, ensure_ascii=False) for value in values]
    write_text(path, "\n".join(lines) + "\n")
    return len(rows) - len(chats)


def _row(value: Mapping[str, Any], place: str) -> OwnRow:
    level = value.get("score")
    level = level if isinstance(level, int) and 0 <= level <= 5 else None
    if "messages" in value:
        messages = checked_messages(value["messages"], place)
        content = json.dumps(messages, sort_keys=True)
        return OwnRow(_id(value, content), None, messages, level, value.get("not_learnt") or "")
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{place}: neither `messages` nor a `text` that is not empty")
    return OwnRow(_id(value, text), text, None, level)


def _id(value: Mapping[str, Any], content: str) -> str:
    given = value.get("id")
    return str(given) if given else hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
