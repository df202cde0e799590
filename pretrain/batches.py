"""Training samples as tensors: inputs, labels, and which labels count."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.blended_data import BlendedData
from pretrain.cross_entropy import IGNORED
from pretrain.mesh import Ranks
from pretrain.sampler import micro_batches


@dataclass(frozen=True)
class MicroBatch:
    """One forward and backward pass. Ids int64 [samples, positions]; labels are the next ids, or `IGNORED`."""

    inputs_bt: Tensor
    labels_bt: Tensor

    @property
    def counted_labels(self) -> int:
        """Labels that the loss is summed over."""
        return int((self.labels_bt != IGNORED).sum())


def micro_batch(tokens: NDArray[np.int64], counts: NDArray[np.float32]) -> MicroBatch:
    """The samples `tokens` [samples, positions + 1]; a label counts where `counts` [samples, positions] is not 0."""
    text = torch.from_numpy(tokens)
    return MicroBatch(text[:, :-1], text[:, 1:].masked_fill(torch.from_numpy(counts) == 0, IGNORED))


def read_micro_batch(data: BlendedData, samples: range) -> MicroBatch:
    """The given samples of `data`, on the CPU."""
    return micro_batch(
        np.stack([data.tokens(sample) for sample in samples]), np.stack([data.loss_mask(sample) for sample in samples])
    )


class GlobalBatches:
    """This rank's micro batches, one iteration after the other, from `consumed_samples` on."""

    def __init__(
        self, data: BlendedData, ranks: Ranks, consumed: int, total: int, micro_batch_size: int, global_batch_size: int
    ) -> None:
        self._data = data
        self._walk: Iterator[range] = micro_batches(
            consumed, total, micro_batch_size, ranks.data_rank, ranks.data_ranks
        )
        self._each = global_batch_size // (micro_batch_size * ranks.data_ranks)

    def next(self) -> list[MicroBatch]:
        """The micro batches of this rank's next iteration."""
        return [read_micro_batch(self._data, samples) for samples in islice(self._walk, self._each)]
