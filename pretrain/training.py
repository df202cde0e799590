"""One process that trains: model, optimizer, data and state, and what one iteration does to them."""

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain.blended_data import BlendedData
from pretrain.checkpoint import TrainingState, load_state, load_tensors, refuse_difference, save_checkpoint
from pretrain.errors import PretrainError
from pretrain.model import Decoder, new_decoder
from pretrain.recipe import PretrainRecipe
from pretrain.sampler import micro_batches
from pretrain.schedule import learning_rate

# A run whose gradients stay infinite or NaN this long has diverged; more data will not help.
_SKIPS_IN_A_ROW: Final = 10


@dataclass(frozen=True)
class Iteration:
    """What one iteration did. `grad_norm` is the global norm before clipping; a skipped one left the weights alone."""

    loss: float
    grad_norm: float
    learning_rate: float
    skipped: bool


def summed_cross_entropy(logits_btv: Tensor, labels_bt: Tensor) -> Tensor:
    """Sum over tokens of the negative log-likelihood of the labels, in nats."""
    return functional.cross_entropy(logits_btv.flatten(0, 1).float(), labels_bt.flatten(), reduction="sum")


def new_optimizer(recipe: PretrainRecipe, decoder: Decoder) -> torch.optim.AdamW:
    """AdamW; matrices decay, norms do not."""
    matrices = [parameter for parameter in decoder.parameters() if parameter.dim() > 1]
    norms = [parameter for parameter in decoder.parameters() if parameter.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": norms, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_eps,
        fused=True,
    )


class Training:
    """A run at one of its iterations: new, or where the checkpoint `resume_from` of the recipe's save folder left it.

    Raises `CheckpointError` where that checkpoint is of other data or of another model.
    """

    def __init__(self, recipe: PretrainRecipe, resume_from: int | None) -> None:
        torch.set_num_threads(recipe.threads)
        self.recipe = recipe
        self.state = TrainingState() if resume_from is None else load_state(recipe.save, resume_from)
        remaining = max(0, recipe.train_iters - self.state.iteration)
        self._total_samples = self.state.consumed_samples + remaining * recipe.global_batch_size
        self.data = BlendedData.of_recipe(recipe, self._total_samples)
        model_settings = recipe.model.model_dump(mode="json")
        if resume_from is not None:
            refuse_difference("data", self.state.fingerprint, self.data.fingerprint, recipe.save)
            refuse_difference("model settings", self.state.model, model_settings, recipe.save)
        self.state.fingerprint, self.state.model = self.data.fingerprint, model_settings
        self.decoder = new_decoder(recipe.model, self.data.blend.vocabulary_size, recipe.seed)
        self._optimizer = new_optimizer(recipe, self.decoder)
        # Nothing draws from it yet; seeded and saved, so that a layer that does is reproducible.
        torch.manual_seed(recipe.seed)
        if resume_from is not None:
            load_tensors(recipe.save, resume_from, self.decoder, self._optimizer)
        self._batches = micro_batches(self.state.consumed_samples, self._total_samples, recipe.micro_batch_size)
        self._skips_in_a_row = 0

    def iterate(self) -> Iteration:
        """Read one global batch and update the weights, unless the gradient is not finite."""
        recipe, state = self.recipe, self.state
        loss = self._accumulate_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), recipe.clip_grad).item()
        rate = learning_rate(state.updates + 1, recipe.schedule())
        skipped = not (math.isfinite(norm) and math.isfinite(loss))
        if not skipped:
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            self._optimizer.step()
            state.updates += 1
        self._optimizer.zero_grad(set_to_none=True)
        self._count(loss)
        self._skips_in_a_row = self._skips_in_a_row + 1 if skipped else 0
        if self._skips_in_a_row == _SKIPS_IN_A_ROW:
            raise PretrainError(
                f"{_SKIPS_IN_A_ROW} updates in a row had infinite or NaN gradients, up to iteration {state.iteration}: the "
                "run has diverged. Lower lr, lengthen lr_warmup_iters, and start again from an earlier checkpoint"
            )
        return Iteration(loss, norm, rate, skipped)

    def save(self) -> Path:
        """Write a checkpoint of the present iteration."""
        return save_checkpoint(self.recipe.save, self.state, self.decoder, self._optimizer, self.recipe.keep_latest)

    def _accumulate_gradients(self) -> float:
        """Gradients of the mean loss over all tokens of the global batch; returns that mean, in nats a token."""
        recipe = self.recipe
        tokens_in_batch = recipe.global_batch_size * recipe.seq_length
        loss = 0.0
        for samples in islice(self._batches, recipe.global_batch_size // recipe.micro_batch_size):
            text = torch.from_numpy(np.stack([self.data.tokens(sample) for sample in samples]))
            micro_loss = summed_cross_entropy(self.decoder(text[:, :-1]), text[:, 1:]) / tokens_in_batch
            micro_loss.backward()
            loss += micro_loss.item()
        return loss

    def _count(self, loss: float) -> None:
        state, batch = self.state, self.recipe.global_batch_size
        read, _ = self.data.counts(range(state.consumed_samples, state.consumed_samples + batch))
        for source, tokens in read.items():
            state.tokens_by_source[source] = state.tokens_by_source.get(source, 0) + tokens
        state.iteration += 1
        state.consumed_samples += batch
        state.last_loss = loss
        if state.iteration == 1:
            state.first_loss = loss
