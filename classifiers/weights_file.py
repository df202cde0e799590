"""Weights as safetensors files that say what they are, in the same bytes each time they are written."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.errors import ModelError

_FACTS = "facts"


def save_weights(tensors: dict[str, np.ndarray], path: Path, facts: dict[str, Any]) -> None:
    """Writes the file whole or not at all. `facts` (JSON-able) go into one metadata entry: of several, safetensors would
    write them in any order, and equal weights would not be equal files."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".tmp")
    save_file(tensors, str(whole), metadata={_FACTS: json.dumps(facts, sort_keys=True)})
    whole.replace(path)


def facts_of(file: Any, path: Path) -> dict[str, Any]:
    """The facts of an open safetensors `file`; none where it was written by somebody else. Raises ModelError that names
    `path` where they are no JSON object."""
    stored = (file.metadata() or {}).get(_FACTS)
    if stored is None:
        return {}
    try:
        return dict(json.loads(stored))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{path}: its facts are not a JSON object ({error}); restore the file or train it again"
        ) from error
