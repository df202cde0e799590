"""How several data sets are mixed: which one the i-th sample of the run comes from. Megatron's rules."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Each source is built with this surplus, so that rounding never asks it for a sample that it does not have.
SURPLUS: Final = 0.005


def normalised(weights: Sequence[float]) -> list[float]:
    """`weights` divided by their sum, in float64."""
    values = np.asarray(weights, dtype=np.float64)
    return (values / values.sum()).tolist()


def samples_per_source(weights: Sequence[float], samples: int) -> list[int]:
    """Samples to build for each source so that a blend of `samples` never runs dry."""
    return [math.ceil(math.ceil(samples * weight) * (1 + SURPLUS)) for weight in normalised(weights)]


def blend_index(weights: Sequence[float], samples: int) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
    """Source of each sample (int16 [samples]) and its number within that source (int64 [samples]).

    Step i takes the source with the largest weight * max(i, 1) - drawn; the first wins ties. A longer blend begins with
    the shorter one. Takes about 1 s a million samples.
    """
    # Twice, because Megatron's builder and its blended data set normalise one after the other: bits may differ.
    shares = normalised(normalised(weights))
    drawn = [0] * len(shares)
    sources = np.empty(samples, dtype=np.int16)
    numbers = np.empty(samples, dtype=np.int64)
    for step in range(samples):
        scale = float(max(step, 1))
        best, largest = 0, -math.inf
        for source, share in enumerate(shares):
            shortfall = share * scale - drawn[source]
            if shortfall > largest:
                best, largest = source, shortfall
        sources[step] = best
        numbers[step] = drawn[best]
        drawn[best] += 1
    return sources, numbers
