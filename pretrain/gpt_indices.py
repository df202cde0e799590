"""Which tokens make up the i-th training sample of one data set: Megatron's GPTDataset indices, bit for bit.

Documents are laid end to end in a shuffled order for as many epochs as needed, cut every `sequence_length` tokens (each
sample reads one token more, the label of its last position), and the samples are shuffled again.
"""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretrain.errors import PretrainDataError

# A sample of S inputs needs S + 1 tokens: the last label.
EXTRA_TOKEN: Final = 1
# The last epoch is shuffled on its own if less than this share of its samples is wanted (Megatron's constant).
_WHOLE_EPOCH_SHARE: Final = 0.80
_BLOCK: Final = 1 << 20


class EpochPlan(NamedTuple):
    """How often a data set is repeated; the order of its samples depends on nothing else but lengths and seed.

    `samples_before_last_epoch` is None where all epochs are shuffled together.
    """

    epochs: int
    samples: int
    samples_before_last_epoch: int | None


class GptIndices(NamedTuple):
    """`documents` int32 [epochs * documents]: document ids in reading order.

    `starts` int32 [samples + 1, 2]: position in `documents` and token offset in that document where each unshuffled
    sample starts, and the end of the last. `shuffle` uint32 [samples]: unshuffled sample of each shuffled one.
    """

    documents: NDArray[np.int32]
    starts: NDArray[np.int32]
    shuffle: NDArray[np.uint32]


def plan_epochs(tokens: int, sequence_length: int, samples_wanted: int) -> EpochPlan:
    """Least number of epochs over `tokens` that holds `samples_wanted`, and whether the last is shuffled apart.

    Raises `PretrainDataError` for a data set without tokens.
    """
    if tokens < 1 or samples_wanted < 1:
        raise PretrainDataError(f"cannot draw {samples_wanted} samples from a data set of {tokens} tokens")
    epochs = max(1, -(-(samples_wanted * sequence_length + EXTRA_TOKEN) // tokens))
    samples = (epochs * tokens - EXTRA_TOKEN) // sequence_length
    if epochs == 1:
        return EpochPlan(epochs, samples, None)
    before_last = ((epochs - 1) * tokens - EXTRA_TOKEN) // sequence_length
    samples_per_epoch = (tokens - EXTRA_TOKEN) // sequence_length
    apart = samples_wanted - before_last < int(_WHOLE_EPOCH_SHARE * samples_per_epoch)
    return EpochPlan(epochs, samples, before_last if apart else None)


def build_gpt_indices(
    document_lengths: NDArray[np.int32], sequence_length: int, samples_wanted: int, seed: int
) -> GptIndices:
    """The three indices of a data set whose documents have `document_lengths` tokens.

    Memory: 4 bytes a document and epoch, 12 a sample, 40 MB more while it works. One `RandomState(seed)` orders first documents, then samples.
    """
    plan = plan_epochs(int(document_lengths.sum(dtype=np.int64)), sequence_length, samples_wanted)
    if plan.epochs * len(document_lengths) > np.iinfo(np.int32).max:
        raise PretrainDataError(
            f"{plan.epochs} epochs of {len(document_lengths)} documents exceed the index; split the source or train less"
        )
    random = np.random.RandomState(seed)
    documents = _document_index(len(document_lengths), plan, random)
    starts = _sample_index(document_lengths, documents, sequence_length, plan.samples)
    return GptIndices(documents, starts, _shuffle_index(plan, random))


def _document_index(documents: int, plan: EpochPlan, random: np.random.RandomState) -> NDArray[np.int32]:
    apart = plan.samples_before_last_epoch is not None
    parts = []
    for epochs in (plan.epochs - 1, 1) if apart else (plan.epochs,):
        part = np.tile(np.arange(documents, dtype=np.int32), epochs)
        random.shuffle(part)
        parts.append(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _sample_index(
    lengths: NDArray[np.int32], documents: NDArray[np.int32], sequence_length: int, samples: int
) -> NDArray[np.int32]:
    starts = np.empty((samples + 1, 2), dtype=np.int32)
    done = tokens_before = 0
    # In blocks of documents: 8 bytes a document of running sums would be most of the memory, and searches within a
    # block stay in the cache.
    for first in range(0, len(documents), _BLOCK):
        sums = np.cumsum(lengths[documents[first : first + _BLOCK]], dtype=np.int64)
        sums += tokens_before
        begins = np.concatenate(([tokens_before], sums[:-1]))
        tokens_before = int(sums[-1])
        end = min(samples + 1, -(-tokens_before // sequence_length))
        token_starts = np.arange(done, end, dtype=np.int64) * sequence_length
        # "right" skips documents without tokens, as Megatron's walk over the documents does.
        positions = np.searchsorted(begins, token_starts, side="right") - 1
        starts[done:end, 0] = first + positions
        starts[done:end, 1] = token_starts - begins[positions]
        done = end
    # The walk begins at the first document even if that one is empty.
    starts[0] = 0
    return starts


def _shuffle_index(plan: EpochPlan, random: np.random.RandomState) -> NDArray[np.uint32]:
    shuffle = np.arange(plan.samples, dtype=np.uint32)
    split = plan.samples_before_last_epoch
    if split is None:
        random.shuffle(shuffle)
    else:
        random.shuffle(shuffle[:split])
        random.shuffle(shuffle[split:])
    return shuffle
