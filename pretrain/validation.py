"""Mean loss on held-out texts, for each source by itself."""

from typing import TYPE_CHECKING

import numpy as np

from pretrain.batches import MicroBatch, micro_batch
from pretrain.blend_file import Blend, BlendSource, load_blend
from pretrain.errors import PretrainDataError
from pretrain.gpt_indices import EXTRA_TOKEN
from pretrain.loss_mask import loss_mask
from pretrain.recipe import PretrainRecipe
from pretrain.source_samples import SourceSamples
from pretrain.tokenizer_check import check_corpus_tokenizer, check_same_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from pretrain.training import Training


class Validation:
    """The first `eval_samples` samples of each source of the recipe's validation blend, the same ones every time.

    Sources smaller than that are read again from their start, those that are empty or of weight 0 left out. Raises
    `PretrainDataError` where the blend is missing, broken, too small or of another tokenizer than the training data.
    """

    def __init__(self, recipe: PretrainRecipe, path: "Path", training: Blend) -> None:
        blend = load_blend(path)
        check_corpus_tokenizer(path, blend)
        check_same_tokenizer(path, blend, training)
        measured = [source for source in blend.sources if source.tokens and source.weight]
        _check_sizes(path, measured, recipe.seq_length)
        self._recipe, self._blend = recipe, blend
        self._sources = {
            source.name: SourceSamples(path.parent, source, blend, recipe.seq_length, recipe.eval_samples, recipe.seed)
            for source in measured
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


def _check_sizes(path: "Path", sources: list[BlendSource], sequence_length: int) -> None:
    if not sources:
        raise PretrainDataError(
            f"validation: {path} has no source with tokens and a weight above 0; give one a weight, or leave validation out"
        )
    for source in sources:
        if source.tokens < sequence_length + EXTRA_TOKEN:
            raise PretrainDataError(
                f"validation: source {source.name} of {path} holds {source.tokens} tokens in all, less than one sample of "
                f"{sequence_length} and its last label; hold out more of its texts, or give it weight 0 in that file"
            )
