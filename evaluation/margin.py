"""Safety alignment margin: how far apart a model's modes are at the first token of the answer (arXiv 2508.14904)."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Distance = Literal["cosine", "euclidean"]
# Cosine distances of equal rows differ from 0 by rounding only; a silhouette of roundings would be noise.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Margin:
    """`value` = mean of `rows` [responses] (silhouettes in [-1, 1]); `modes`: their mean for each mode.

    Its zero point is -1/n, not 0: n prompts answered with identical logits in all modes give -1/n. Variety of the prompts
    lowers it; compare only on the same prompts.
    """

    value: float
    modes: dict[Hashable, float]
    rows: np.ndarray


def safety_alignment_margin(
    first_token_logits: np.ndarray, modes: Sequence[Hashable], distance: Distance = "cosine"
) -> Margin:
    """SAM: the mean silhouette of the responses, clustered by mode.

    first_token_logits [responses, vocabulary]: at the position that predicts the first content token, padded columns cut
    off. modes [responses]. For response i, a = mean distance to the other responses of its mode, b = smallest mean distance
    to another mode, s = (b - a) / max(a, b); 0 where both are 0, and for a mode with one response (as scikit-learn). Cosine
    distance of a row of zeros to anything is 1.
    Raises ValueError for fewer than two modes, different lengths, or logits that are not finite.
    """
    logits = np.asarray(first_token_logits, dtype=np.float64)
    if logits.ndim != 2 or len(logits) != len(modes):
        raise ValueError(f"logits of shape {logits.shape} for {len(modes)} modes: expected [responses, vocabulary]")
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite: cut off masked columns before")
    names = list(dict.fromkeys(modes))
    if len(names) < 2:
        raise ValueError("a margin needs at least two modes")
    membership = np.array([[mode == name for name in names] for mode in modes], dtype=np.float64)
    sizes = membership.sum(axis=0)
    own = membership.argmax(axis=1)
    sums = _distances(logits, distance) @ membership
    rows = np.arange(len(logits))
    others = sizes[own] - 1
    a = sums[rows, own] / np.where(others > 0, others, 1)
    means = sums / sizes
    means[rows, own] = np.inf
    b = means.min(axis=1)
    largest = np.maximum(a, b)
    silhouettes = np.where((others > 0) & (largest > 0), (b - a) / np.where(largest > 0, largest, 1), 0.0)
    by_mode = {name: float(silhouettes[own == index].mean()) for index, name in enumerate(names)}
    return Margin(float(silhouettes.mean()), by_mode, silhouettes)


def paired_margin(
    first_token_logits: np.ndarray,
    modes: Sequence[Hashable],
    prompts: Sequence[Hashable],
    distance: Distance = "cosine",
) -> Margin:
    """SAM after each prompt's mean over its modes is taken off, so that the variety of prompts does not hide the modes (ours).

    prompts [responses]: which prompt each response answers. Raises ValueError as `safety_alignment_margin`, and where a
    prompt is not answered exactly once in each mode.
    """
    _check_pairs(modes, prompts)
    logits = np.asarray(first_token_logits, dtype=np.float64)
    index = _numbers(prompts)
    means = np.zeros((index.max() + 1, logits.shape[1]))
    np.add.at(means, index, logits)
    return safety_alignment_margin(logits - (means / len(set(modes)))[index], modes, distance)


def linear_probe_accuracy(
    first_token_logits: np.ndarray,
    modes: Sequence[Hashable],
    prompts: Sequence[Hashable],
    folds: int = 5,
    ridge: float = 1.0,
) -> float:
    """Share of responses whose mode a linear probe reads off, prompts held out (ours): no response of a prompt is in both
    parts. One-against-all ridge regression on rows of mean 0 and unit mean square; `ridge` is per training row.

    Prompts go to the folds in turn, in the order of their first response. Raises ValueError for fewer prompts than folds.
    """
    logits = np.asarray(first_token_logits, dtype=np.float64)
    index = _numbers(prompts)
    if folds < 2 or index.max() + 1 < folds:
        raise ValueError(
            f"{index.max() + 1} prompts in {folds} folds: expected at least 2 folds, and a prompt for each"
        )
    names = list(dict.fromkeys(modes))
    own = np.array([names.index(mode) for mode in modes])
    targets = np.where(np.eye(len(names))[own] > 0, 1.0, -1.0)
    hits = 0
    for fold in range(folds):
        test = index % folds == fold
        centre = logits[~test].mean(axis=0)
        train, held = logits[~test] - centre, logits[test] - centre
        scale = np.sqrt((train**2).sum(axis=1).mean()) or 1.0
        gram = (train @ train.T) / scale**2
        level = targets[~test].mean(axis=0)
        weights = np.linalg.solve(gram + ridge / len(train) * np.eye(len(train)), targets[~test] - level)
        predicted = (held @ train.T) / scale**2 @ weights + level
        hits += int((predicted.argmax(axis=1) == own[test]).sum())
    return hits / len(logits)


def _distances(logits: np.ndarray, distance: Distance) -> np.ndarray:
    if distance == "cosine":
        norms = np.linalg.norm(logits, axis=1, keepdims=True)
        unit = logits / np.where(norms > 0, norms, 1.0)
        found = 1.0 - unit @ unit.T
        found[found < ROUNDING] = 0.0
    else:
        found = np.stack([np.linalg.norm(logits - row, axis=1) for row in logits])
    np.fill_diagonal(found, 0.0)
    return found


def _numbers(values: Sequence[Hashable]) -> np.ndarray:
    """The number of each value in the order of first occurrence."""
    order = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.array([order[value] for value in values])


def _check_pairs(modes: Sequence[Hashable], prompts: Sequence[Hashable]) -> None:
    if len(modes) != len(prompts):
        raise ValueError(f"{len(modes)} modes and {len(prompts)} prompts: expected one of each for a response")
    pairs = set(zip(prompts, modes, strict=True))
    if len(pairs) != len(modes) or len(pairs) != len(set(prompts)) * len(set(modes)):
        raise ValueError("each prompt must be answered exactly once in each mode")
