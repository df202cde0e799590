"""One rank that trains: model, optimizer, data and state, and what one iteration does to them."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import loss_parallel

from pretrain.batches import GlobalBatches, MicroBatch
from pretrain.blended_data import BlendedData, layout_advice
from pretrain.checkpoint import Start, TrainingState, load_state, refuse_difference
from pretrain.checkpoint_tensors import CheckpointWriter, load_training, load_weights
from pretrain.cross_entropy import summed_cross_entropy
from pretrain.errors import PretrainError
from pretrain.hugging_face_import import llama_weights
from pretrain.mesh import Ranks
from pretrain.model import WeightSource, initial_weights
from pretrain.optimizer import new_optimizer
from pretrain.parallel import parallel_decoder
from pretrain.recipe import PretrainRecipe
from pretrain.schedule import learning_rate

# A run whose gradients stay infinite or NaN this long has diverged; more data will not help.
_SKIPS_IN_A_ROW: Final = 10


@dataclass(frozen=True)
class Iteration:
    """What one iteration did; the same on every rank but for the times.

    `loss` is the mean over the counted labels of the global batch, in nats; `grad_norm` the global norm before clipping; a
    skipped iteration left the weights alone. `data_seconds` went into reading this rank's samples.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    skipped: bool
    data_seconds: float
    stop_requested: bool


class Training:
    """A run at one of its iterations: new, or where the checkpoint `start` left it.

    Raises `CheckpointError` where that checkpoint is of other data or of another model.
    """

    def __init__(self, recipe: PretrainRecipe, ranks: Ranks, start: Start | None) -> None:
        torch.set_num_threads(recipe.threads)
        self.recipe, self.ranks = recipe, ranks
        # Nothing draws from it yet; seeded and saved, so that a layer that does is reproducible.
        torch.manual_seed(recipe.seed + ranks.data_rank)
        resumed = start is not None and not start.weights_only
        self.state = load_state(start.save, start.iteration) if start is not None and resumed else TrainingState()
        remaining = max(0, recipe.train_iters - self.state.iteration)
        total_samples = self.state.consumed_samples + remaining * recipe.global_batch_size
        self.data = BlendedData.of_recipe(recipe, total_samples)
        model_settings = recipe.model.model_dump(mode="json")
        if start is not None:
            saved = load_state(start.save, start.iteration)
            if resumed:
                now = self.data.fingerprint
                advice = layout_advice(saved.fingerprint, now, (recipe.data_samples or 0) > total_samples)
                refuse_difference("data", saved.fingerprint, now, start.save, advice)
            refuse_difference("model settings", saved.model, model_settings, start.save)
        self.decoder = parallel_decoder(recipe, self.data.blend.vocabulary_size, ranks, self._new_weights(start))
        self._optimizer = new_optimizer(recipe, self.decoder)
        if start is not None and resumed:
            load_training(start, self.state, self.decoder, self._optimizer, ranks)
        elif start is not None:
            load_weights(start.folder, self.decoder, ranks)
        self.state.fingerprint, self.state.model = self.data.fingerprint, model_settings
        self.state.ranks = ranks.count
        self.state.global_batch_size = recipe.global_batch_size
        self._batches = GlobalBatches(
            self.data,
            ranks,
            self.state.consumed_samples,
            total_samples,
            recipe.micro_batch_size,
            recipe.global_batch_size,
        )
        self._writer = CheckpointWriter(recipe.save, recipe.keep_latest, ranks)
        self._skips_in_a_row = 0

    def open_save_folder(self) -> None:
        """Create it, or clean up what a killed run left in it. Nothing has been written before."""
        self._writer.open()

    def iterate(self, stop_requested: Callable[[], bool] = lambda: False) -> Iteration:
        """Read one global batch and update the weights, unless the gradient is not finite.

        Where `stop_requested` is true on one rank, the result says so on all of them.
        """
        recipe, state = self.recipe, self.state
        begun = perf_counter()
        batches = self._batches.next()
        data_seconds = perf_counter() - begun
        counted = self.ranks.sum_over_data([sum(batch.counted_labels for batch in batches)])[0]
        (loss,) = self.ranks.sum_over_data([self._accumulate_gradients(batches, counted)])
        stop = self.ranks.any_rank(stop_requested())
        norm = self._clip()
        rate = learning_rate(state.updates + 1, recipe.schedule())
        skipped = not (math.isfinite(norm) and math.isfinite(loss))
        if not skipped:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            state.updates += 1
        self._optimizer.zero_grad(set_to_none=True)
        self._count(loss)
        self._refuse_divergence(skipped)
        self._writer.publish_if_written()
        return Iteration(loss, norm, rate, skipped, data_seconds, stop)

    def save(self) -> Path:
        """Begin to write a checkpoint of the present iteration; returns the folder that will hold it."""
        return self._writer.begin(self.state, self.decoder, self._optimizer)

    def finish_saving(self) -> None:
        """Wait until the last checkpoint is whole on disk and the tracker names it."""
        self._writer.finish()

    def mean_loss(self, batches: list[MicroBatch]) -> float:
        """Mean loss over the counted labels of these batches, without gradients; each rank gives its own part."""
        with torch.no_grad(), self._vocabulary_split():
            total = sum(self._summed_loss(batch).item() for batch in batches)
        counted = float(sum(batch.counted_labels for batch in batches))
        total, counted = self.ranks.sum_over_data([total, counted])
        return total / max(counted, 1.0)

    def _new_weights(self, start: Start | None) -> WeightSource:
        drawn = initial_weights(self.recipe.model, self.recipe.seed)
        if start is not None or self.recipe.init_from is None:
            return drawn
        return llama_weights(self.recipe.init_from, self.recipe.model, drawn)

    def _accumulate_gradients(self, batches: list[MicroBatch], counted: float) -> float:
        """Gradients of the mean loss over all counted labels of the global batch; returns this rank's part of that mean."""
        # FSDP2 averages gradients over the data-parallel ranks; the mean over labels needs their sum.
        divisor = max(counted, 1.0) / self.ranks.data_ranks
        loss = 0.0
        for batch in batches:
            with self._vocabulary_split():
                micro_loss = self._summed_loss(batch) / divisor
                micro_loss.backward()
            loss += micro_loss.item()
        return loss / self.ranks.data_ranks

    def _summed_loss(self, batch: MicroBatch) -> Tensor:
        device = self.ranks.device
        logits = self.decoder(batch.inputs_bt.to(device, non_blocking=True))
        return summed_cross_entropy(logits, batch.labels_bt.to(device, non_blocking=True))

    def _vocabulary_split(self) -> AbstractContextManager[None]:
        """Around forward and backward: the cross-entropy of logits that stay split by vocabulary. Must not be nested."""
        return loss_parallel() if self.ranks.tensor_ranks > 1 else nullcontext()

    def _clip(self) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), self.recipe.clip_grad)
        return (norm.full_tensor() if isinstance(norm, DTensor) else norm).item()

    def _count(self, loss: float) -> None:
        state, batch = self.state, self.recipe.global_batch_size
        by_source, by_level = self.data.counts(range(state.consumed_samples, state.consumed_samples + batch))
        for total, read in ((state.tokens_by_source, by_source), (state.tokens_by_level, by_level)):
            for name, tokens in read.items():
                total[name] = total.get(name, 0) + tokens
        state.iteration += 1
        state.consumed_samples += batch
        state.last_loss = loss
        if state.iteration == 1:
            state.first_loss = loss

    def _refuse_divergence(self, skipped: bool) -> None:
        self._skips_in_a_row = self._skips_in_a_row + 1 if skipped else 0
        if self._skips_in_a_row == _SKIPS_IN_A_ROW:
            raise PretrainError(
                f"{_SKIPS_IN_A_ROW} updates in a row had infinite or NaN gradients, up to iteration {self.state.iteration}: "
                "the run has diverged. Lower lr, lengthen lr_warmup_iters, and start again from an earlier checkpoint"
            )
