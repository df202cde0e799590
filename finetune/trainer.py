"""transformers' Trainer with a loss of ours: cross-entropy over the labels of the whole update, and a term beside it.

Import this module late: it loads torch and transformers.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Trainer

from finetune.chat_data import IGNORED
from finetune.errors import DivergenceError
from finetune.positions import next_labels
from finetune.reference import Reading, Reference, head_columns, narrowed, plain_head


class Objective(Protocol):
    """A loss that compares the trained model with its start."""

    reading: Reading
    reference: Reference

    def mask(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Compared positions, bool [batch, length]."""
        ...

    def loss(
        self,
        token_losses: Tensor,
        values: Tensor,
        reference_values: Tensor,
        batch: Mapping[str, Tensor],
        counts: "Counts",
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(what is descended on, parts for the log). `token_losses` [labels]: cross-entropies in row order; `values` and
        `reference_values` [positions, width] of `mask`, in row order. Divide by `counts`, never by what is given here."""
        ...


class Counts:
    """Labels and compared positions of the whole update, over all accumulated batches and ranks."""

    def __init__(self, labels: Tensor | int, positions: Tensor | int) -> None:
        self.labels, self.positions = labels, positions


class SupervisedTrainer(Trainer):
    """`objective` None: cross-entropy alone, by the same code, so that runs with a weight of 0 repeat it bit for bit."""

    def __init__(self, *args: Any, objective: Objective | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.model_accepts_loss_kwargs = True  # the number of labels of the whole update is counted and handed over
        self.loss_is_scaled_for_ga = True
        self.objective: Objective | None = objective
        self._positions: Tensor | int = 0
        self._parts: dict[str, Tensor] = {}
        self._updates = 0  # that `_parts` are the sums of
        self._head: Any = None
        if objective is not None and objective.reading.columns is not None:
            tuned: Any = self.model
            self._head = plain_head(tuned.get_base_model() if hasattr(tuned, "get_base_model") else tuned)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, Any]:
        """As the base class; counts the update and its compared positions too."""
        batches, labels = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._updates += bool(batches)
        if self.objective is not None and batches:
            self._positions = torch.stack([self.objective.mask(batch).sum() for batch in batches]).sum().to(device)
            if self.args.world_size > 1:
                self._positions = self.accelerator.gather(self._positions).sum()
        return batches, labels

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of one micro-batch, divided by the counts of the whole update."""
        assert not return_outputs and num_items_in_batch is not None, "this trainer trains; see `mean_cross_entropy`"
        with self.accelerator.autocast():
            loss, parts = self._loss(model, inputs, Counts(num_items_in_batch, self._positions))
        for name, value in parts.items():
            self._parts[name] = self._parts.get(name, torch.zeros_like(value)) + value.detach()
        # counts are those of all ranks, and gradients are averaged over ranks
        return loss * self.accelerator.num_processes

    def _loss(self, model: Any, batch: Mapping[str, Tensor], counts: Counts) -> tuple[Tensor, dict[str, Tensor]]:
        targets = next_labels(batch["labels"])
        labelled = targets != IGNORED
        mask = labelled if self.objective is None else self.objective.mask(batch)
        kept = (labelled | mask).any(dim=0).nonzero().squeeze(1)
        with self._hidden_states() as hidden:
            logits = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                use_cache=False,
                logits_to_keep=kept,
            ).logits
        token_losses = label_losses(logits, targets[:, kept])
        if self.objective is None:
            loss = token_losses.sum() / counts.labels
            return loss, {"cross_entropy": loss}
        # what is predicted, also where no label stands (positions beyond the answers)
        predicted = torch.nn.functional.pad(batch["input_ids"][:, 1:], (0, 1))
        reading, chosen = self.objective.reading, mask[:, kept]
        if self._head is not None:
            columns = head_columns(
                self._head, hidden[0][chosen], torch.as_tensor(reading.columns, device=logits.device)
            )
        else:
            columns = narrowed(logits[chosen], reading)
        values = reading.values(columns, predicted[mask])
        reference = self.objective.reference.values(batch, mask, predicted[mask])
        return self.objective.loss(token_losses, values, reference, batch, counts)

    @contextmanager
    def _hidden_states(self) -> Iterator[list[Tensor]]:
        """Collects what the output layer is given, where its columns are computed apart."""
        hidden: list[Tensor] = []
        if self._head is None:
            yield hidden
            return
        hook = self._head.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
        try:
            yield hidden
        finally:
            hook.remove()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the parts of the loss, per update. Raises DivergenceError for a loss that is no number."""
        if "loss" in logs:
            for name, value in self._parts.items():
                logs[name] = float(self.accelerator.reduce(value, "sum")) / max(self._updates, 1)
            self._parts, self._updates = {}, 0
            if not math.isfinite(logs["loss"]) or not math.isfinite(logs.get("grad_norm", 0.0)):
                raise DivergenceError(
                    f"update {self.state.global_step}: the loss or its gradient is not finite; lower lr or clip_grad"
                )
        super().log(logs, start_time)


def label_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies [labels], float32, of the positions whose target is a label, in row order."""
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return losses[targets.flatten() != IGNORED]


def mean_cross_entropy(model: Any, batches: Any) -> float:
    """Mean over all labels of all batches, in nats; nothing is trained. NaN without a label."""
    total, count = 0.0, 0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for batch in batches:
                batch = {name: value.to(model.device) for name, value in batch.items()}
                targets = next_labels(batch["labels"])
                kept = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)
                logits = model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False,
                    logits_to_keep=kept,
                ).logits  # fmt: skip
                losses = label_losses(logits, targets[:, kept])
                total, count = total + float(losses.double().sum()), count + len(losses)
    finally:
        model.train(training)
    return total / count if count else math.nan
