"""Formulas of one step: how far base and expert disagree, and which token wins when the expert may correct (arXiv 2602.02027).

All on probabilities in float32 (float64 stays). Suffixes: b rows, t steps, v vocabulary.
"""

from typing import Any

# Rounding of two float32 softmaxes: a margin this close to the bound counts as undecided.
MARGIN_GUARD = 1e-5
CHANGE_CHANCE_WITHOUT_MARGIN = 0.4


def probabilities(logits_v: Any) -> Any:
    """Softmax over the last axis in at least float32, whatever the model's dtype."""
    import torch

    return torch.softmax(logits_v, dim=-1, dtype=torch.promote_types(logits_v.dtype, torch.float32))


def disagreement(base_v: Any, expert_v: Any) -> Any:
    """The current I = half the L1 distance of two distributions over the last axis, in [0, 1]; nan where an input is."""
    return (base_v - expert_v).abs().sum(-1) / 2


def fused_scores(base_bv: Any, expert_bv: Any, strength_b: Any, candidates: int) -> Any:
    """p_b + strength (p_e - p_b) on the union of both distributions' `candidates` likeliest tokens, p_b elsewhere.

    Not renormalised, as in the released code. strength_b [rows] in [0, 1]. Returns [rows, vocabulary].
    """
    import torch

    count = min(candidates, int(base_bv.shape[-1]))
    union = torch.zeros_like(base_bv, dtype=torch.bool)
    for distribution in (base_bv, expert_bv):
        union.scatter_(-1, distribution.topk(count, dim=-1).indices, True)
    mixed = base_bv + strength_b[:, None].to(base_bv.dtype) * (expert_bv - base_bv)
    return torch.where(union, mixed, base_bv)


def fused_choice(base_bv: Any, expert_bv: Any, strength_b: Any, candidates: int, base_token_b: Any) -> Any:
    """The token with the highest fused score [rows]; the base's own choice where it ties for it."""
    import torch

    scores = fused_scores(base_bv, expert_bv, strength_b, candidates)
    highest, token = scores.max(-1)
    stays = scores.gather(-1, base_token_b[:, None])[:, 0] == highest
    return torch.where(stays, base_token_b, token)


def deciding_margin(strength: float) -> float:
    """The margin p_b(first) - p_b(second) from which no expert can change the token: strength / (1 - strength).

    A token y beats the base's x only if strength (p_e(y) - p_e(x)) > (1 - strength) (p_b(x) - p_b(y)), and the left
    bracket is at most 1. A y outside both candidate lists keeps p_b(y), which needs a margin below strength alone.
    Above 1 for strengths from 0.5: there every token may change.
    """
    return strength / (1 - strength) if strength < 1 else float("inf")


def margin(base_bv: Any) -> Any:
    """p_b(first) - p_b(second) [rows]."""
    first, place = base_bv.max(-1, keepdim=True)
    # Two maxima: a partial sort of a whole vocabulary costs many times more.
    return (first - base_bv.scatter(-1, place, -1.0).max(-1, keepdim=True).values)[:, 0]


def undecided(margin_b: Any, deciding_margin_b: Any) -> Any:
    """[rows] bool: the base's margin is so small that the expert may change the token."""
    return margin_b <= deciding_margin_b + MARGIN_GUARD


def change_chance(margin_b: Any, deciding_margin_b: Any) -> Any:
    """A guess [rows] of how likely the expert changes a token of this margin; 0 for a decided one. Decides about cost alone.

    Ours: falls with the square of the margin's distance from the deciding one. On SmolLM2-135M, with an expert that disagrees
    as much as published logs do and strength 0.1, 17 % of the tokens with a margin below 0.01 changed, 6 % of those
    from 0.02 to 0.06, none above (383 tokens); asking twice as early cost least when that run was replayed.
    """
    distance = 1 - margin_b / deciding_margin_b.clamp(min=MARGIN_GUARD)
    return CHANGE_CHANCE_WITHOUT_MARGIN * distance.clamp(min=0) ** 2
