"""Which samples a rank reads next. The order depends on the consumed samples alone, not on the number of ranks."""

from collections.abc import Iterator


def micro_batches(
    consumed_samples: int, total_samples: int, micro_batch_size: int, rank: int = 0, ranks: int = 1
) -> Iterator[range]:
    """Sample numbers of the micro batches of data-parallel `rank`, from `consumed_samples` on.

    The run is walked in blocks of `micro_batch_size * ranks`; each rank takes its slice; a partial block at the end is
    left out (Megatron's sequential sampler).
    """
    block = micro_batch_size * ranks
    for start in range(consumed_samples, total_samples - block + 1, block):
        mine = start + rank * micro_batch_size
        yield range(mine, mine + micro_batch_size)
