"""Files of a result folder get their name when they are whole: temporary name, fsync, rename."""

import json
import os
from pathlib import Path
from typing import Any


def temporary_name(path: Path) -> Path:
    """A hidden neighbour of `path`, of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync_and_rename(temporary: Path, path: Path) -> None:
    """Gives a finished file its name."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` in one step; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    temporary.write_text(text, encoding="utf-8")
    sync_and_rename(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
