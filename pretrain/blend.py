"""How several data sets are mixed: which one the i-th sample of the run comes from. Megatron's rules."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

# Each source is built with this surplus, so that rounding never asks it for a sample that it does not have.
SURPLUS: Final = 0.005
# Blends up to this many samples are walked as one block; longer ones in blocks of at least this length.
_BLOCK: Final = 4096
# So many steps of a block are taken at once, so that its sources are written in runs and not one by one.
_CHUNK: Final = 256


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
    the shorter one. Takes about 0.1 s a million samples and source.

    The rule is one step after the other, but forgets where it began: from any nearly balanced state it is soon on the
    one path. So the run is cut into blocks, all blocks are walked at the same time from guessed states, and those whose
    guess was not the end of the block before are walked again from that end, until every block begins where the last
    one ended. The result is exact, whatever the guesses; they only decide how often blocks are walked.
    """
    # Twice, because Megatron's builder and its blended data set normalise one after the other: bits may differ.
    shares = np.asarray(normalised(normalised(weights)), dtype=np.float64)
    # Blocks grow with the run, so that neither the blocks nor the steps of one are many.
    length = max(min(samples, _BLOCK), math.isqrt(samples) // 2, 1)
    blocks = max(1, -(-samples // length))
    first_steps = np.arange(blocks, dtype=np.int64) * length
    drawn = _balanced(shares, first_steps)
    ends = np.empty_like(drawn)
    walked = np.empty((blocks, length), dtype=np.int16)
    wrong = np.arange(blocks)
    while len(wrong):
        ends[:, wrong] = _walk(shares, first_steps[wrong], drawn[:, wrong], walked, wrong)
        wrong = 1 + np.flatnonzero((drawn[:, 1:] != ends[:, :-1]).any(axis=0))
        drawn[:, wrong] = ends[:, wrong - 1]
    sources = walked.reshape(-1)[:samples]
    numbers = np.empty(samples, dtype=np.int64)
    for source in range(len(shares)):
        mine = np.flatnonzero(sources == source)
        numbers[mine] = np.arange(len(mine))
    return sources, numbers


def _balanced(shares: NDArray[np.float64], steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Draws of each source [sources, blocks] before the given steps, shared out by largest remainders; 0 at step 0."""
    exact = shares[:, None] * steps
    whole = np.floor(exact)
    left = steps - whole.sum(axis=0)
    rank = np.argsort(np.argsort(whole - exact, axis=0, kind="stable"), axis=0)
    balanced: NDArray[np.float64] = whole + (rank < left)
    return balanced


def _walk(
    shares: NDArray[np.float64],
    first_steps: NDArray[np.int64],
    drawn: NDArray[np.float64],
    walked: NDArray[np.int16],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Take the steps of the given blocks from `drawn` [sources, blocks] on, write `walked[rows]`, return the end's draws."""
    drawn = drawn.copy()
    steps, length = first_steps.astype(np.float64), walked.shape[1]
    scale, shortfall, largest = np.empty_like(steps), np.empty_like(steps), np.empty_like(steps)
    larger = np.empty(len(steps), dtype=bool)
    for start in range(0, length, _CHUNK):
        chunk = np.zeros((min(_CHUNK, length - start), len(steps)), dtype=np.int16)
        for best in chunk:
            np.maximum(steps, 1.0, out=scale)
            np.multiply(scale, shares[0], out=largest)
            largest -= drawn[0]
            for source in range(1, len(shares)):
                np.multiply(scale, shares[source], out=shortfall)
                shortfall -= drawn[source]
                np.greater(shortfall, largest, out=larger)
                np.copyto(best, source, where=larger)
                np.maximum(largest, shortfall, out=largest)
            for source in range(len(shares)):
                drawn[source] += np.equal(best, source, out=larger)
            steps += 1.0
        walked[rows, start : start + len(chunk)] = chunk.T
    return drawn
