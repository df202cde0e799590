"""The formulas of the refusal direction (arXiv 2406.11717, as SafeSteer's released code uses them)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SCORE_EPSILON = 1e-8
# Largest KL on harmless prompts that removing a direction may cause, and the share of layers a direction may come from.
MAXIMUM_KL = 0.1
LAYER_FIFTHS = 4


def refusal_score(last_logits: Tensor, refusal_ids: Sequence[int]) -> Tensor:
    """ln(P + 1e-8) - ln(1 - P + 1e-8) for each prompt [prompts], float64; P: probability that the answer begins with one of
    `refusal_ids`. last_logits [prompts, vocabulary]: those that predict the answer's first token."""
    probabilities = torch.softmax(last_logits.double(), -1)
    return score_of_probability(probabilities[..., list(refusal_ids)].sum(-1))


def score_of_probability(probability: Tensor) -> Tensor:
    """The log odds of a probability, held finite by 1e-8."""
    probability = probability.double()
    return torch.log(probability + SCORE_EPSILON) - torch.log(1 - probability + SCORE_EPSILON)


def ablate(hidden: Tensor, direction: Tensor) -> Tensor:
    """`hidden` [..., width] without its component along `direction` [width] (of any length but zero)."""
    unit = direction / direction.norm()
    return hidden - (hidden @ unit).unsqueeze(-1) * unit


def steer(hidden: Tensor, direction: Tensor, coefficient: float = 1.0) -> Tensor:
    """`hidden` [..., width] plus the raw direction, which is not normalised."""
    return hidden + coefficient * direction


def mean_kl(base_logits: Tensor, changed_logits: Tensor) -> float:
    """Mean KL(base || changed) over prompts, nats; logits [prompts, vocabulary]."""
    base = torch.log_softmax(base_logits.double(), -1)
    changed = torch.log_softmax(changed_logits.double(), -1)
    return float((base.exp() * (base - changed)).sum(-1).mean())


def first_barred_layer(layers: int) -> int:
    """floor(0.8 layers): from here on no direction is taken, since little of the model would come after it."""
    return layers * LAYER_FIFTHS // 5


@dataclass(frozen=True)
class CandidateScores:
    """Scores of the direction at one place: `position` counts from the prompt's end (-1: last), `layer` is the block that
    it enters. `kl`: `mean_kl` on harmless prompts with it removed everywhere; `ablated`: mean refusal score of harmful
    prompts likewise; `added`: mean refusal score of harmless prompts with it added at its layer."""

    position: int
    layer: int
    kl: float
    ablated: float
    added: float

    def allowed(self, layers: int) -> bool:
        """False for a late layer, for one that harms harmless prompts, one that does not make them refused, and NaN."""
        finite = all(math.isfinite(value) for value in (self.kl, self.ablated, self.added))
        return finite and self.layer < first_barred_layer(layers) and self.kl <= MAXIMUM_KL and self.added >= 0


def rank_candidates(candidates: Iterable[CandidateScores], layers: int) -> list[CandidateScores]:
    """The allowed ones, best first: lowest refusal of harmful prompts without the direction; of equal ones the earlier layer,
    then the later position."""
    allowed = [candidate for candidate in candidates if candidate.allowed(layers)]
    return sorted(allowed, key=lambda one: (one.ablated, one.layer, -one.position))
