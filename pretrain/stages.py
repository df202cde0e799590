"""Staged blends (a curriculum): which source each sample of the run comes from when the mixture changes on the way."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretrain.blend import blend_index, samples_per_source
from pretrain.data_settings import DataStage
from pretrain.errors import PretrainDataError


class StagedBlend(NamedTuple):
    """`sources` int16 [samples] and `numbers` int64 [samples]: sample i is number `numbers[i]` of source `sources[i]`.

    `wanted` [sources]: samples to build of each source, 0 for one that is never read.
    """

    sources: NDArray[np.int16]
    numbers: NDArray[np.int64]
    wanted: list[int]


def stage_samples(stages: Sequence[DataStage], sequence_length: int, samples: int) -> list[int]:
    """Samples of each stage, together `samples`; the last stage without `tokens` takes what is left.

    Stages behind the end of the run get 0. Raises `PretrainDataError` where the stages are too short for the run, or
    where one is shorter than a sample.
    """
    counts: list[int] = []
    for number, stage in enumerate(stages, start=1):
        left = samples - sum(counts)
        if stage.tokens is not None and stage.tokens < sequence_length:
            raise PretrainDataError(
                f"stage {number} has {stage.tokens} tokens, less than one sample of {sequence_length}; raise stages.tokens"
            )
        counts.append(left if stage.tokens is None else min(left, stage.tokens // sequence_length))
    if sum(counts) < samples:
        raise PretrainDataError(
            f"the run reads {samples} samples of {sequence_length} tokens, its stages hold {sum(counts)}; raise "
            "stages.tokens, leave it out of the last stage, or train less"
        )
    return counts


def staged_blend(weights: Sequence[Sequence[float]], samples: Sequence[int]) -> StagedBlend:
    """Blends of `samples[s]` samples by `weights[s]` [sources], one after the other.

    Each source goes on where the stage before left it. With one stage this is Megatron's blend.
    """
    drawn = np.zeros(len(weights[0]), dtype=np.int64)
    wanted = np.zeros(len(weights[0]), dtype=np.int64)
    sources = np.empty(sum(samples), dtype=np.int16)
    numbers = np.empty(sum(samples), dtype=np.int64)
    at = 0
    for shares, count in zip(weights, samples, strict=True):
        if not count:
            continue
        read = np.array([source for source, share in enumerate(shares) if share])
        positive = [shares[source] for source in read]
        part_sources, part_numbers = blend_index(positive, count)
        sources[at : at + count] = read[part_sources]
        numbers[at : at + count] = part_numbers + drawn[read][part_sources]
        wanted[read] += samples_per_source(positive, count)
        drawn[read] += np.bincount(part_sources, minlength=len(read))
        at += count
    return StagedBlend(sources, numbers, wanted.tolist())
