"""Constrained fine-tuning on the first tokens (arXiv 2406.05946), a baseline: an answer's first tokens may move little.

Objective: sum over tokens of -(2 / beta_t) log sigmoid(beta_t * (log p(y_t) - log p_0(y_t))); a large beta_t holds the token
near the starting model, beta_t -> 0 is plain cross-entropy. Constants are those of the authors' code.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from finetune.positions import next_labels, turn_offsets
from finetune.reference import Reading
from finetune.reference_settings import ReferenceSettings, make_reference
from finetune.training import Run

if TYPE_CHECKING:
    from torch import Tensor


class ConstrainedSettings(ReferenceSettings):
    """Strength of the constraint by the token's place in its answer."""

    beta_first: float = Field(0.5, gt=0, description="of an answer's first token")
    beta_early: float = Field(2.0, gt=0, description="of the second to the `early_tokens`-th")
    early_tokens: int = Field(5, ge=1, description="how many tokens count as early")
    beta_rest: float = Field(0.1, gt=0, description="of all others")
    least_weight: float = Field(1e-3, ge=0, description="floor of a token's weight")


def token_betas(offsets: "Tensor", settings: ConstrainedSettings) -> "Tensor":
    """beta of each token, float32, from its number within the answer (1 is the first; `positions.turn_offsets`)."""
    import torch

    betas = torch.full(offsets.shape, settings.beta_rest, device=offsets.device)
    betas[offsets <= settings.early_tokens] = settings.beta_early
    betas[offsets == 1] = settings.beta_first
    return betas


def constrained_loss(log_probs: "Tensor", reference_log_probs: "Tensor", betas: "Tensor") -> "Tensor":
    """-(2 / beta) log sigmoid(beta (log p - log p_0)) of each token, in nats; equal to (2 / beta) log 2 at the start."""
    import torch

    return -2 / betas * torch.nn.functional.logsigmoid(betas * (log_probs - reference_log_probs))


def constrained_weights(
    log_probs: "Tensor", reference_log_probs: "Tensor", betas: "Tensor", least_weight: float
) -> "Tensor":
    """max(2 (1 - sigmoid(beta (log p - log p_0))), least_weight), without gradient: times the gradient of cross-entropy it
    is the gradient of `constrained_loss`; 1 at the start."""
    drift = (log_probs - reference_log_probs).detach()
    return (2 * (-betas * drift).sigmoid()).clamp(min=least_weight)


class ConstrainedObjective:
    """Cross-entropies weighted by `constrained_weights`, over the labels of the whole update."""

    def __init__(self, settings: ConstrainedSettings) -> None:
        self.settings = settings
        self.reading = Reading(_target_log_probs)
        self.reference: Any = None

    def mask(self, batch: Mapping[str, "Tensor"]) -> "Tensor":
        """Every position with a label."""
        return next_labels(batch["labels"]) != -100

    def loss(
        self,
        token_losses: "Tensor",
        values: "Tensor",
        reference_values: "Tensor",
        batch: Mapping[str, "Tensor"],
        counts: Any,
    ) -> tuple["Tensor", dict[str, "Tensor"]]:
        """See `finetune.trainer.Objective`."""
        offsets = turn_offsets(batch["labels"])
        betas = token_betas(offsets[offsets > 0], self.settings)
        reference = reference_values.squeeze(1)
        weights = constrained_weights(-token_losses, reference, betas, self.settings.least_weight)
        loss = (weights * token_losses).sum() / counts.labels
        value = constrained_loss(-token_losses.detach(), reference, betas).sum() / counts.labels
        return loss, {"cross_entropy": token_losses.sum() / counts.labels, "constrained_loss": value}


def _target_log_probs(logits: "Tensor", targets: "Tensor") -> "Tensor":
    return logits.float().log_softmax(dim=-1).gather(1, targets[:, None])


def constrained_objective(run: Run) -> ConstrainedObjective:
    """The objective with its reference."""
    objective = ConstrainedObjective(run.recipe.constrained)
    objective.reference = make_reference(
        run, run.recipe.constrained, objective.reading, objective.mask, {"values": "log-probabilities of the labels"}
    )
    return objective
