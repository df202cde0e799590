"""Files of a result folder: JSON that gets its name when it is whole, and JSON lines that are only ever appended to."""

import hashlib
import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from classifiers.errors import DataError, RecipeError


def json_sha256(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value` (sorted keys, no white space)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def make_folder(path: Path) -> None:
    """Makes a folder for results where there is none. Raises RecipeError where there can be none, before anything is computed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"{path} cannot be a folder ({error.strerror}): give another --output") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file under a temporary name, flushes it to disk, and gives it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def write_lines(path: Path, rows: Iterable[Any]) -> None:
    """Writes JSON lines, whole or not at all."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises DataError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as JSON ({error}): is its folder the result of an evaluation?"
        ) from error


def read_lines(path: Path) -> list[Any]:
    """The values of a file of JSON lines. Raises DataError that names the file and the line."""
    rows = []
    try:
        lines = list(io.StringIO(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): is its folder the result of an evaluation?") from error
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise DataError(f"{path}, line {number} is not JSON: the file was cut or changed") from None
    return rows


class KeptAnswers:
    """A file of {"key", "value"} lines that is only appended to: what is in it need not be asked again.

    A line that a kill has cut off is removed when the file is opened; each `add` is on disk when it returns. One process
    at a time may write to it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.is_file() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        for number, line in enumerate(io.StringIO(whole.decode()), 1):
            try:
                row = json.loads(line)
                self._found[row["key"]] = row["value"]
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{path}, line {number} is damaged: delete that line (its answer is asked again)"
                ) from None

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> Any:
        return self._found[key]

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._found.get(key)

    def __len__(self) -> int:
        return len(self._found)

    def add(self, rows: Iterable[tuple[str, Any]]) -> None:
        """Keeps these values under these keys."""
        new = list(rows)
        with self._path.open("ab") as stream:
            for key, value in new:
                stream.write(json.dumps({"key": key, "value": value}, ensure_ascii=False).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._found.update(new)
