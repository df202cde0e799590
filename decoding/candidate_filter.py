"""Which candidates are discarded, and how hypotheses are compared: the formulas of Safe Beam, apart from any model.

Safety Pretraining (arXiv 2504.16980), Algorithm "Safe Beam Search". Tensor names carry their shape: r rows, v vocabulary.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

EarlyStopping = bool | Literal["never"]


def tag_probability(log_probs_rv: "Tensor", tag_token_id: int) -> "Tensor":
    """The published risk [rows]: f(tag | y), the probability of the harmfulness tag as the next token."""
    return log_probs_rv[..., tag_token_id].exp()


def boundary_risk(log_probs_rv: "Tensor", tag_token_id: int, word_start_ids: "Tensor") -> "Tensor":
    """The boundary-corrected risk [rows], in [0, 1]: f(tag | y) / (f(tag | y) + sum of f(v | y) over v that begin a word).

    Tags come at word starts only, so the published risk is near 0 inside a word whatever the text says. Given that a new word
    follows, this one is the tag rate times P(unsafe | y). 0 where neither the tag nor a word start has any probability. Ours.
    """
    tag = log_probs_rv[..., tag_token_id]
    every = log_probs_rv.index_select(-1, word_start_ids).logsumexp(-1).logaddexp(tag)
    return (tag - every).exp().nan_to_num(nan=0.0)


def discarded_count(candidates: int, fraction: float) -> int:
    """floor(fraction * candidates), at least one left. The paper's fraction is 0.5."""
    return min(math.floor(fraction * candidates), max(candidates - 1, 0))


def discard_riskiest(risks: Sequence[float], log_probs: Sequence[float], fraction: float) -> list[int]:
    """Indices, in order, of the candidates that stay: the riskiest go first; of equal risk the less likely, then the later."""
    worst_first = sorted(range(len(risks)), key=lambda i: (-risks[i], log_probs[i], -i))
    return sorted(worst_first[discarded_count(len(risks), fraction) :])


def penalised_score(log_prob: float, length: int, length_penalty: float) -> float:
    """log p(y) / length^penalty, length in generated tokens (the end token counts); penalty 0: log p itself, as published."""
    return log_prob / length**length_penalty


def best_possible_score(
    log_prob: float, length: int, most_tokens: int, length_penalty: float, early_stopping: EarlyStopping
) -> float:
    """The best score that a live hypothesis may still reach, by which the search ends.

    early_stopping "never": a true bound, since log p only falls: at the full length for a penalty above 0, else at this one.
    False: at this length (transformers' default, a heuristic for penalties above 0).
    """
    longest = most_tokens if early_stopping == "never" and length_penalty > 0 else length
    return penalised_score(log_prob, longest, length_penalty)


def top_candidates(scores_rv: "Tensor", count: int) -> "Tensor":
    """Ids [rows, count] of the highest scores of each row, highest first; of equal ones the lower id first.

    torch.topk leaves the order of equal scores open, and which of them it takes: a result would depend on the batch.
    """
    import torch

    values, ids = torch.topk(scores_rv, count)
    at_least = scores_rv >= values[:, -1:]
    if int(at_least.sum()) > values.numel():
        return scores_rv.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    ids = ids.sort(dim=-1).values
    order = scores_rv.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices
    return ids.gather(-1, order)
