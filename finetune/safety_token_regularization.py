"""Safety Token Regularization (STR, arXiv 2604.17210), reconstructed: only the paper's abstract is known first-hand.

The logits of a few safety tokens are held near those of the frozen starting model in the same context, beside the ordinary
cross-entropy. The squared two-sided form on raw logits is second-hand; the other spaces and `one_sided` are ours.
Call results "STR-style (reconstructed)".
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from finetune.errors import SafetyTokenError

if TYPE_CHECKING:
    from torch import Tensor

Space = Literal["raw", "logprob", "centered", "mass"]
Reduction = Literal["mean", "sum"]


def anchor_values(logits: "Tensor", token_ids: "Tensor", space: Space = "raw") -> "Tensor":
    """What STR compares, float32 or wider [..., |S|] (mass: [..., 1]), from logits [..., vocabulary].

    raw: z(v). logprob: log p(v). centered: z(v) minus the mean over the vocabulary. mass: log of the probability of S.
    Columns are gathered before anything is widened, so the vocabulary is never copied for `raw`.
    """
    columns = _wide(logits.index_select(-1, token_ids))
    if space == "raw":
        return columns
    if space == "centered":
        return columns - _wide(logits).mean(dim=-1, keepdim=True)
    normaliser = _wide(logits).logsumexp(dim=-1, keepdim=True)
    if space == "logprob":
        return columns - normaliser
    return columns.logsumexp(dim=-1, keepdim=True) - normaliser


def drift_penalty(
    values: "Tensor",
    reference_values: "Tensor",
    reduction: Reduction = "mean",
    one_sided: bool = False,
    num_positions: "Tensor | int | None" = None,
) -> "Tensor":
    """(1 / |T|) sum over positions of r * sum_v d(v)^2, from `anchor_values` [positions, |S|] of both models; a scalar.

    d = values - reference_values; r = 1 / |S| (mean) or 1 (sum). `one_sided` (ours): only d < 0 counts, so that safety
    tokens may gain. `num_positions`: |T| of the whole update where this is a part of it; none: the positions given here.
    Without any position the result is 0 with a gradient of 0.
    """
    drift = values - reference_values
    if one_sided:
        drift = drift.clamp(max=0)
    squares = drift.square().sum()
    if reduction == "mean":
        squares = squares / values.shape[-1]
    count = len(values) if num_positions is None else num_positions
    return squares / (max(count, 1) if isinstance(count, int) else count.clamp(min=1))


def str_penalty(
    logits: "Tensor",
    reference_logits: "Tensor",
    token_ids: "Tensor | Sequence[int]",
    position_mask: "Tensor",
    space: Space = "raw",
    reduction: Reduction = "mean",
    one_sided: bool = False,
    num_positions: "Tensor | int | None" = None,
) -> "Tensor":
    """L_STR, a scalar, from logits of the trained and of the frozen model [batch, length, vocabulary].

    `position_mask` [batch, length] (bool): see `finetune.positions.position_mask`. The reference takes no gradient.
    Gradient on the logits at one position, times 1 / |T|, with d as in `drift_penalty`: raw 2r [j in S] d_j; logprob
    2r ([j in S] d_j - p_j sum d); centered 2r ([j in S] d_j - sum d / V); mass 2d ([j in S] p_j / p(S) - p_j).
    Raises SafetyTokenError for an empty or repeated set, ids outside the vocabulary, or logits of different shapes.
    """
    import torch

    if logits.shape != reference_logits.shape:
        raise SafetyTokenError(
            f"logits {tuple(logits.shape)} and reference logits {tuple(reference_logits.shape)} differ in shape: was the "
            "vocabulary resized? Resize before the reference is taken"
        )
    ids = torch.as_tensor(token_ids, device=logits.device, dtype=torch.long)
    check_token_ids(ids.tolist(), logits.shape[-1])
    mask = position_mask.to(torch.bool)
    return drift_penalty(
        anchor_values(logits[mask], ids, space),
        anchor_values(reference_logits.detach()[mask], ids, space),
        reduction,
        one_sided,
        num_positions,
    )


def check_token_ids(token_ids: Sequence[int], vocabulary: int) -> None:
    """Raises SafetyTokenError for a set that is empty, names a token twice, or has ids outside [0, vocabulary)."""
    if not token_ids:
        raise SafetyTokenError(
            "the set of safety tokens is empty: lower tokens.least_share or tokens.least_lift, or name refusals' openings"
        )
    if len(set(token_ids)) < len(token_ids):
        raise SafetyTokenError("the set of safety tokens names a token twice; take each id once")
    if wrong := [token for token in token_ids if not 0 <= token < vocabulary]:
        raise SafetyTokenError(
            f"safety token {wrong[0]}: the model has ids from 0 to {vocabulary - 1}; the set belongs to another tokenizer"
        )


def _wide(values: "Tensor") -> "Tensor":
    return values if values.element_size() >= 4 else values.float()
