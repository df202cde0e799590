"""The safety level of each document beside its tokens: `PREFIX.levels`, one uint8 a document, in the documents' order.

0 to 5 is the rubric's score of the text as it is trained on; 255 stands for a document without one. The file is optional.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pretrain.errors import PretrainDataError

UNKNOWN_LEVEL: Final = 255


def levels_path(prefix: str | Path) -> Path:
    """`PREFIX.levels`."""
    return Path(f"{prefix}.levels")


def read_levels(prefix: str | Path, documents: int) -> NDArray[np.uint8] | None:
    """Levels [documents], or None where none were recorded. Raises `PretrainDataError` for another number of documents."""
    path = levels_path(prefix)
    if not path.is_file():
        return None
    if path.stat().st_size != documents:
        raise PretrainDataError(
            f"{path} holds the levels of {path.stat().st_size} documents, the index beside it has {documents}; tokenise "
            "again, or delete the file to train without counts by level"
        )
    return np.fromfile(path, dtype=np.uint8)


def level_name(level: int) -> str:
    """How a level is called in logs and checkpoints: "0" to "5", or "unknown"."""
    return "unknown" if level == UNKNOWN_LEVEL else str(level)
