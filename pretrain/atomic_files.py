"""Files get their final name only when they are whole: temporary name, fsync, rename, fsync of the folder."""

import os
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A hidden neighbour of `path` (same file system, so that the rename is atomic), of this process alone."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the contents of a finished file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) in one step: readers see the old or the new file, never a part."""
    temporary = temporary_name(path)
    temporary.write_text(text, encoding="utf-8")
    sync_file(temporary)
    temporary.replace(path)
    sync_folder(path.parent)
