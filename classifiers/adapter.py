"""What fine-tuning adds to an encoder's weights, stored apart from them and merged at load.

Low-rank (LoRA, Hu et al. 2021, arXiv 2106.09685): a pair of thin matrices for each module; or dense, one update for each.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.errors import ModelError
from classifiers.weights_file import facts_of

SHIPPED_ADAPTER = Path(__file__).parent / "weights" / "embedding" / "minilm_adapter.safetensors"
DOWN, UP, DENSE = "down", "up", "update"


def low_rank_update(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """What an adapter adds to a weight matrix [out, in]: `up` [out, rank] @ `down` [rank, in], float32 (eq. 3 of LoRA;
    its factor alpha / rank is part of `up` here)."""
    return up.astype(np.float32) @ down.astype(np.float32)


def read_adapter(path: Path, encoder_sha256: str) -> dict[str, np.ndarray]:
    """Update [out, in], float32, of each adapted module, by the module's name.

    Raises ModelError for a file that is missing, broken, or made for another encoder.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ModelError(f"{path}: no such adapter; restore it, or train one with `safetrove classifier train`")
    try:
        with safe_open(str(path), framework="numpy") as file:
            facts = facts_of(file, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(f"{path}: not a safetensors file ({error}); restore it or train it again") from error
    if facts.get("encoder_sha256") != encoder_sha256:
        raise ModelError(
            f"{path}: made for the encoder {facts.get('encoder')!r}, not for the one loaded; train an adapter for it"
        )
    updates = {}
    for module in sorted({name.rpartition(".")[0] for name in tensors}):
        parts = {name.rpartition(".")[2]: value for name, value in tensors.items() if name.rpartition(".")[0] == module}
        if parts.keys() == {DENSE}:
            updates[module] = parts[DENSE].astype(np.float32)
        elif parts.keys() == {DOWN, UP}:
            updates[module] = low_rank_update(parts[UP], parts[DOWN])
        else:
            raise ModelError(
                f"{path}: {module} has {', '.join(sorted(parts))}; expected .{DOWN} and .{UP}, or .{DENSE}; train it again"
            )
    return updates


def merge_adapter(model: Any, updates: dict[str, np.ndarray], path: Path) -> None:
    """Adds the updates to the weights of the model's modules, in place. Raises ModelError where one does not fit."""
    import torch

    modules = dict(model.named_modules())
    for name, update in updates.items():
        module = modules.get(name)
        if module is None or tuple(module.weight.shape) != update.shape:
            raise ModelError(f"{path}: the encoder has no module {name!r} of shape {update.shape}; train it again")
        with torch.no_grad():
            module.weight += torch.from_numpy(update)


def adapted_sha256(encoder_sha256: str, path: Path) -> str:
    """Identity of an encoder with an adapter: sha256 (hexadecimal) over both identities."""
    return hashlib.sha256((encoder_sha256 + hashlib.sha256(path.read_bytes()).hexdigest()).encode()).hexdigest()
