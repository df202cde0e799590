"""Files that get their final name only when they are whole: temporary name, fsync, rename, fsync of the folder."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".partial"


def temporary_path(final: Path) -> Path:
    """The name under which `final` is written until it is whole. Readers never list names with this suffix."""
    return final.with_name(final.name + TEMPORARY_SUFFIX)


def publish_file(final: Path) -> None:
    """Flush the temporary file of `final` to disk and give it its final name (atomic within one folder)."""
    temporary = temporary_path(final)
    with temporary.open("rb+") as f:
        os.fsync(f.fileno())
    temporary.replace(final)
    descriptor = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(final: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `final`, on an exception it is removed and `final` is untouched."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(final)
    try:
        yield temporary
        publish_file(final)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(final: Path, text: str) -> None:
    """Write `text` (UTF-8) atomically."""
    with atomic_path(final) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(final: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically."""
    write_text(final, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in 1 MiB blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def json_sha256(value: Any) -> str:
    """Hex sha256 of the canonical JSON of `value` (sorted keys, no white space)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
