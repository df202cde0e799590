"""Mean loss on held-out texts, for each source by itself."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from pretrain.batches import IGNORED, MicroBatch
from pretrain.blended_data import SourceSamples, load_blend
from pretrain.errors import PretrainDataError
from pretrain.recipe import PretrainRecipe

if TYPE_CHECKING:
    from pathlib import Path

    from pretrain.training import Training


class Validation:
    """The first `eval_samples` samples of each source of the recipe's validation blend, the same ones every time.

    Sources smaller than that are read again from their start. Raises `PretrainDataError` where the blend is missing, broken
    or of another vocabulary than the training data.
    """

    def __init__(self, recipe: PretrainRecipe, path: "Path", vocabulary_size: int) -> None:
        blend = load_blend(path)
        if blend.vocabulary_size != vocabulary_size:
            raise PretrainDataError(
                f"{path} has a vocabulary of {blend.vocabulary_size}, the training data one of {vocabulary_size}: tokenise "
                "both with the same tokenizer"
            )
        self._recipe = recipe
        self._sources = {
            source.name: SourceSamples(path.parent, source, blend, recipe.seq_length, recipe.eval_samples, recipe.seed)
            for source in blend.sources
        }

    def losses(self, training: "Training") -> dict[str, float]:
        """Mean loss in nats a token by source, over all ranks; every rank must call it."""
        return {name: training.mean_loss(self._batches(source, training)) for name, source in self._sources.items()}

    def _batches(self, source: SourceSamples, training: "Training") -> list[MicroBatch]:
        """This rank's part. Ranks take turns; one that has run out repeats a pass that counts nothing, since FSDP2 and
        tensor parallelism need all ranks in each forward pass."""
        ranks, micro = training.ranks, self._recipe.micro_batch_size
        passes = -(-self._recipe.eval_samples // (micro * ranks.data_ranks))
        return [
            _micro_batch(
                source, (number * ranks.data_ranks + ranks.data_rank) * micro, micro, self._recipe.eval_samples
            )
            for number in range(passes)
        ]


def _micro_batch(source: SourceSamples, first: int, size: int, total: int) -> MicroBatch:
    numbers = range(first, first + size)
    text = torch.from_numpy(np.stack([source.tokens(min(number, total - 1)) for number in numbers]))
    labels = text[:, 1:].clone()
    labels[[number >= total for number in numbers]] = IGNORED
    return MicroBatch(text[:, :-1], labels)
