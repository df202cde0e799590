"""Mean loss on held-out texts, for each source by itself."""

from typing import TYPE_CHECKING

import numpy as np

from pretrain.batches import MicroBatch, micro_batch
from pretrain.blend_file import load_blend
from pretrain.errors import PretrainDataError
from pretrain.loss_mask import loss_mask
from pretrain.recipe import PretrainRecipe
from pretrain.source_samples import SourceSamples

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
        self._recipe, self._blend = recipe, blend
        self._sources = {
            source.name: SourceSamples(path.parent, source, blend, recipe.seq_length, recipe.eval_samples, recipe.seed)
            for source in blend.sources
            if source.tokens
        }

    def losses(self, training: "Training") -> dict[str, float]:
        """Mean loss in nats a token by source, over all ranks; every rank must call it."""
        return {name: training.mean_loss(self._batches(source, training)) for name, source in self._sources.items()}

    def _batches(self, source: SourceSamples, training: "Training") -> list[MicroBatch]:
        """This rank's part. Ranks take turns; one that has run out repeats a pass that counts nothing, since FSDP2 and
        tensor parallelism need all ranks in each forward pass."""
        ranks, micro = training.ranks, self._recipe.micro_batch_size
        passes = -(-self._recipe.eval_samples // (micro * ranks.data_ranks))
        firsts = [(number * ranks.data_ranks + ranks.data_rank) * micro for number in range(passes)]
        return [self._micro_batch(source, range(first, first + micro)) for first in firsts]

    def _micro_batch(self, source: SourceSamples, numbers: range) -> MicroBatch:
        total, blend = self._recipe.eval_samples, self._blend
        samples = [source.tokens(min(number, total - 1)) for number in numbers]
        counts = [
            loss_mask(sample, self._recipe.loss_mask, blend.tag_token_id, blend.end_of_document_id) * (number < total)
            for number, sample in zip(numbers, samples, strict=True)
        ]
        return micro_batch(np.stack(samples), np.stack(counts))
