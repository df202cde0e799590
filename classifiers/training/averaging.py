"""One model from several: the average of fine-tunings that started at the same weights (model soup, Wortsman et al. 2022)."""

from collections.abc import Sequence

import numpy as np

from classifiers.adapter import DOWN, UP


def average_adapters(adapters: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The adapter whose update is the mean of the given ones' updates: ranks add up, `up` is divided by their number."""
    tensors = {}
    for name in adapters[0]:
        parts = [adapter[name].astype(np.float32) for adapter in adapters]
        if name.endswith(f".{DOWN}"):
            tensors[name] = np.concatenate(parts, axis=0).astype(np.float16)
        elif name.endswith(f".{UP}"):
            tensors[name] = (np.concatenate(parts, axis=1) / len(parts)).astype(np.float16)
        else:
            tensors[name] = np.mean(parts, axis=0).astype(np.float16)
    return tensors


def average_heads(heads: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean of each tensor, float32."""
    return {name: np.mean([head[name] for head in heads], axis=0).astype(np.float32) for name in heads[0]}
