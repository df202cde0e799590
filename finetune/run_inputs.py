"""What a run is made of beside its recipe, which only names it: hashes of its rows and its model, kept in OUTPUT/inputs.json.

A run that was stopped goes on with the same rows and the same model, or not at all (`compare_inputs`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from finetune.errors import ResultFolderError
from finetune.files import write_json

INPUTS_FILE: Final = "inputs.json"


def keep_inputs(output: Path, inputs: Mapping[str, str]) -> None:
    """Writes the hashes, when all is ready for the first update: what is put right before that is no other run."""
    write_json(output / INPUTS_FILE, dict(inputs))


def check_finished(output: Path, inputs: Callable[[], Mapping[str, str]]) -> None:
    """For a whole run: raises ResultFolderError where it was made of others. One without kept hashes stays as it is."""
    if (output / INPUTS_FILE).is_file():
        compare_inputs(output, inputs())


def compare_inputs(output: Path, inputs: Mapping[str, str]) -> None:
    """Raises ResultFolderError that names each of `inputs` whose kept hash is another."""
    kept_file = output / INPUTS_FILE
    if not kept_file.is_file():
        return
    kept = json.loads(kept_file.read_text(encoding="utf-8"))
    if different := sorted(key for key, value in inputs.items() if kept.get(key) != value):
        raise ResultFolderError(
            f"{output} holds a run that was made of something else: {', '.join(different)} changed since (hashes in "
            f"{kept_file.name}); bring back what it was made of, name another output, or delete it"
        )


def json_sha256(value: Any) -> str:
    """Hex sha256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
