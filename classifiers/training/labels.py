"""Reads labelled texts: JSON lines with `text`, `score` (0-5) and `category`."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from classifiers.errors import DataError
from classifiers.rubric import CATEGORY_NAMES, LEVELS, NO_CATEGORY


@dataclass(frozen=True)
class LabelledText:
    """One labelled text; `source` is its kind (web page, dialogue ...), which predicts much of the score: report by it.

    `id` is the row's own, or a hash of its text; empty in rows that were made in memory."""

    text: str
    score: int
    category: str
    source: str
    id: str = field(default="", repr=False)  # the training keeps finished seeds by a hash of the rows as they are shown


@dataclass(frozen=True)
class PoolText:
    """One text without a label, of which some are chosen to be labelled."""

    id: str
    text: str
    source: str


def read_labels(path: Path) -> list[LabelledText]:
    """All rows of the file. Raises DataError that names the file, the line and the field."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON lines with text, score and category")
    rows = [_read_row(line, where) for line, where in _lines(path)]
    if not rows:
        raise DataError(f"{path}: holds no rows; expected JSON lines with text, score and category")
    return rows


def read_label_files(paths: list[Path]) -> list[LabelledText]:
    """All rows of all files; a folder stands for its `.jsonl` files in order. Raises DataError as `read_labels` does."""
    files = [file for path in paths for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    for path in paths:
        if path.is_dir() and not any(path.glob("*.jsonl")):
            raise DataError(f"{path}: holds no .jsonl files; expected JSON lines with text, score and category")
    return [row for file in files for row in read_labels(file)]


def read_texts(path: Path) -> list[str]:
    """The `text` of each row of a file of JSON lines without labels. Raises DataError that names the file and the line."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON lines with text")
    texts = [_read_object(line, where)["text"] for line, where in _lines(path)]
    if not texts:
        raise DataError(f"{path}: holds no rows; expected JSON lines with text")
    return texts


def read_pool(path: Path) -> list[PoolText]:
    """The rows of a file of JSON lines with `text` and, optionally, `id` and `source`. Raises DataError as `read_texts`
    does, and for an id that occurs twice: labels are kept by id."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected JSON lines with text, and optionally id and source")
    rows: dict[str, PoolText] = {}
    for line, where in _lines(path):
        row = _read_object(line, where)
        entry = PoolText(_id_of(row), row["text"], str(row.get("source", "unknown")))
        if entry.id in rows:
            raise DataError(
                f"{where}: the id {entry.id!r} (of rows without one: a hash of the text) occurs twice; "
                "give each row an id of its own, or take the duplicate out"
            )
        rows[entry.id] = entry
    if not rows:
        raise DataError(f"{path}: holds no rows; expected JSON lines with text")
    return list(rows.values())


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """(line, where it stands) of each line that holds something. Raises DataError where the file is not UTF-8."""
    number = 0
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield line, f"{path}, line {number}"
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8, behind line {number} ({error}); save it as UTF-8") from error


def _id_of(row: dict[str, Any]) -> str:
    if row.get("id") is not None:
        return str(row["id"])
    return hashlib.blake2b(row["text"].encode("utf-8", "replace"), digest_size=16).hexdigest()


def _read_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also a number of more digits than int() reads
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f"{where}: expected an object with a string `text`")
    return row


def _read_row(line: str, where: str) -> LabelledText:
    row = _read_object(line, where)
    score, category = row.get("score"), row.get("category")
    if isinstance(score, bool) or not isinstance(score, int) or score not in range(len(LEVELS)):
        raise DataError(f"{where}: score {score!r}; expected a whole number from 0 to {len(LEVELS) - 1}")
    if category not in CATEGORY_NAMES or (category == NO_CATEGORY) != (score == 0):
        raise DataError(f"{where}: category {category!r} with score {score}; 'none' belongs to score 0 and to no other")
    return LabelledText(row["text"], score, category, str(row.get("source", "unknown")), _id_of(row))
