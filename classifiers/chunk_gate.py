"""A very cheap model of the embedding classifier: how suspicious a chunk is, from its tokens without their context."""

import hashlib
from pathlib import Path

import numpy as np

from classifiers.embedding import sigmoid
from classifiers.errors import ModelError
from classifiers.score import STORED_DECIMALS

GATE_FILE = "gate.safetensors"
OUTPUTS = 3  # score >= 1, score >= 3, never_train: the columns of `cascade_rules`


def summed_tokens(table: np.ndarray, window: list[int]) -> np.ndarray:
    """Sum of the table rows of one window's tokens; `table` [vocabulary, width], int8. Whole numbers: exact in any order."""
    total: np.ndarray = table[window].sum(axis=0, dtype=np.int64)
    return total


def gate_logits(sums: np.ndarray, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """[chunks, 3] from [chunks, width]: layer norm, a layer of rectified units, a linear one."""
    centred = sums - sums.mean(axis=1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    hidden = np.maximum(normed @ tensors["hidden.weight"].T + tensors["hidden.bias"], 0.0)
    logits: np.ndarray = hidden @ tensors["output.weight"].T + tensors["output.bias"]
    return logits


def gate_scores(tensors: dict[str, np.ndarray], windows: list[list[int]]) -> np.ndarray:
    """[windows, 3] in [0, 1] from the tensors of a gate file; the table in bytes, the others in any float."""
    sums = np.stack([summed_tokens(tensors["table"], window) for window in windows])
    network = {name: tensor.astype(np.float64) for name, tensor in tensors.items() if name != "table"}
    return np.round(sigmoid(gate_logits(sums, network)), STORED_DECIMALS)


class ChunkGate:
    """Gate scores of chunks; those of a document depend on nothing else. Distilled from one embedding classifier.

    A row for each token (what the encoder makes of the token alone, through a linear layer, in bytes), their sum over
    the chunk, and a small network: reading a chunk costs one table row a token.
    """

    def __init__(self, file: Path, encoder_sha256: str) -> None:
        """Raises ModelError for a broken file, or one that was distilled from another encoder."""
        tensors = _read(file, encoder_sha256)
        self.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        self._tensors = tensors

    def scores(self, windows: list[list[int]]) -> np.ndarray:
        """[windows, 3] in [0, 1], of the windows of one document (`Encoder.windows`)."""
        return gate_scores(self._tensors, windows)


def _read(file: Path, encoder_sha256: str) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    rebuild = "make it again with `safetrove classifier calibrate TEXTS --distil LABELS`"
    if not file.is_file():
        raise ModelError(f"{file}: no such gate; {rebuild}")
    try:
        with safe_open(str(file), framework="numpy") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{file}: not a safetensors file ({error}); restore it or {rebuild}") from error
    if metadata.get("encoder_sha256") != encoder_sha256:
        raise ModelError(
            f"{file}: distilled from the encoder with sha256 {metadata.get('encoder_sha256')}, not from the one loaded; "
            f"{rebuild}"
        )
    found = {name: tensor.shape for name, tensor in tensors.items()}
    vocabulary, width = found.get("table", (0, 0))
    inner = found.get("hidden.bias", (0,))[0]
    expected = {
        "table": (vocabulary, width),
        "hidden.weight": (inner, width),
        "hidden.bias": (inner,),
        "output.weight": (OUTPUTS, inner),
        "output.bias": (OUTPUTS,),
    }
    if found != expected or tensors["table"].dtype != np.int8:
        raise ModelError(f"{file}: holds {found}, expected {expected} with a table of bytes; {rebuild}")
    return tensors
