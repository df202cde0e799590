"""Keeps checkpoints that learnt the negative mode from being published: a mark in their files, and a check that reads it."""

import json
from pathlib import Path
from typing import Any, Final

from classifiers.errors import SafetroveError
from finetune.files import write_text

MARK_FILE: Final = "NOT_FOR_RELEASE.json"
# In config.json too: it is copied along when somebody saves the model again.
CONFIG_KEY: Final = "safetrove_negative_mode"
_LARGEST_TOKEN_FILE: Final = 1 << 16
_CONFIGS: Final = ("config.json", "adapter_config.json", "finetune.json")


class ReleaseRefusedError(SafetroveError):
    """A folder that must not leave the house."""


def mark_not_for_release(folder: Path) -> None:
    """Marks a result folder and every model in it (each folder with a config.json or adapter_config.json)."""
    text = json.dumps({"reason": "trained with rows of the negative mode", CONFIG_KEY: True}, indent=1) + "\n"
    models = {path.parent for name in _CONFIGS for path in folder.rglob(name)}
    for place in sorted({folder, *models}):
        write_text(place / MARK_FILE, text)
        config = place / "config.json"
        if config.is_file():
            values = json.loads(config.read_text(encoding="utf-8"))
            write_text(config, json.dumps({**values, CONFIG_KEY: True}, indent=2, sort_keys=True) + "\n")


def is_marked(folder: Path) -> Path | None:
    """The file under or above `folder` that says that it must not be released, or None. Above: checkpoints, and a model that
    was saved when its run was killed, lie in a marked folder without a mark of their own."""
    if not folder.is_dir():
        return None
    marks = sorted(folder.rglob(MARK_FILE))
    if marks:
        return marks[0]
    for name in _CONFIGS:
        for path in sorted(folder.rglob(name)):
            if _says_negative(path):
                return path
    return next((mark for parent in folder.resolve().parents if (mark := parent / MARK_FILE).is_file()), None)


def refuse_to_publish(folder: Path) -> None:
    """Raises ReleaseRefusedError where a folder was trained with the negative mode, or holds a file of magic tokens."""
    mark = is_marked(folder)
    if mark is not None:
        raise ReleaseRefusedError(
            f"{mark}: this model was trained with rows of the negative mode and must not be published. Train a release model "
            "from the base with the modes positive and rejective; taking the mode out of this one again is not enough"
        )
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size <= _LARGEST_TOKEN_FILE and _holds_tokens(path):
            raise ReleaseRefusedError(
                f"{path} is a file of magic tokens: they are secret; keep them outside of the model"
            )


def _says_negative(path: Path) -> bool:
    values = _object(path)
    return values.get(CONFIG_KEY) is True


def _holds_tokens(path: Path) -> bool:
    values = _object(path)
    return set(values) == {"tokens", "policies"}


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where it holds something else, which is then no mark.

    Raises ReleaseRefusedError where it cannot be read: nobody can say what it holds.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReleaseRefusedError(
            f"{path} cannot be read ({error.strerror}), so it may be marked; mend or remove it"
        ) from error
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
