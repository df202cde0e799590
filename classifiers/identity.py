"""What a classifier's scores depend on, read from its files alone: no model is loaded to compare a run with its recipe."""

import hashlib
from pathlib import Path
from typing import Any

from classifiers.decision import DECISION_FILE
from classifiers.embedding import SHIPPED_HEAD
from classifiers.errors import ModelError
from classifiers.fasttext_classifier import CATEGORY_FILE, LEVEL_FILE, SHIPPED_WEIGHTS
from classifiers.loading import is_missing_folder
from classifiers.rubric import rubric_sha256

OWN_HEAD = "model"  # in the place of a head's file: the encoder is a whole classifier


def fasttext_identity(folder: Path | None) -> dict[str, Any]:
    """Hashes of the fastText weights (None: the shipped ones) and of the rubric. Raises ModelError where one is missing."""
    folder = SHIPPED_WEIGHTS if folder is None else folder
    files = {name: _sha256(folder / name) for name in (LEVEL_FILE, CATEGORY_FILE, DECISION_FILE)}
    return {"weights": files, "rubric": rubric_sha256()}


def embedding_identity(encoder: str, head: Path | None) -> dict[str, Any]:
    """The encoder's name and the head's hash; the head holds the hash of the encoder that it was trained on."""
    return {"encoder": encoder, "head": _sha256(SHIPPED_HEAD if head is None else head), "rubric": rubric_sha256()}


def ready_identity(model: str) -> dict[str, Any]:
    """A ready classifier: its name, and of a local folder the hash of its weights; a Hub id is pinned by its revision.

    Raises ModelError for the path of a folder that is not there.
    """
    folder = Path(model)
    if is_missing_folder(model):
        raise ModelError(f"{model}: the weights are missing; give the folder in the recipe, or put it back")
    weights = {file.name: _sha256(file) for file in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}
    return {"model": model, "weights": weights, "rubric": rubric_sha256()}


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise ModelError(
            f"{path}: the weights are missing; give the folder or file in the recipe, or restore the checkout"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()
