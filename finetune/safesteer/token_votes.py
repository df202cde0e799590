"""Which tokens the refusal direction raises: records vote, the most voted are the safety tokens (SafeSteer's released code)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SafetyToken:
    """`votes`: records that have it among their best; `mean_gain`: of ln p_steered - ln p_plain; the rest are means too."""

    id: int
    votes: int
    mean_gain: float
    plain_probability: float
    steered_probability: float


def steps_before_end(plain_argmax: Tensor, end_ids: Collection[int]) -> Tensor:
    """True [records, steps] for steps before the first one at which the unsteered model would end its turn."""
    ends = torch.isin(plain_argmax, torch.tensor(sorted(end_ids), dtype=plain_argmax.dtype))
    return ends.long().cumsum(-1) == 0


def vote(
    gains: Tensor,
    mean_plain: Tensor,
    mean_steered: Tensor,
    banned_ids: Sequence[int],
    floor: float,
    votes_per_record: int,
    size: int,
) -> list[SafetyToken]:
    """The safety tokens, most votes first, at most `size`; ids without a vote are left out.

    gains [records, vocabulary]: ln p_steered - ln p_plain of valid records. mean_plain, mean_steered [vocabulary]: mean
    probabilities over them. Out are `banned_ids` and ids whose `mean_steered` is below `floor` (else gains pick junk of
    vanishing probability). Each record votes for its `votes_per_record` largest gains. Of equal votes the larger mean gain,
    then the lower id, comes first.
    """
    allowed = mean_steered >= floor
    allowed[list(banned_ids)] = False
    ids = allowed.nonzero()[:, 0]
    if len(gains) == 0 or len(ids) == 0:
        return []
    kept = gains[:, ids]
    chosen = kept.topk(min(votes_per_record, len(ids)), dim=-1).indices
    votes = torch.bincount(chosen.flatten(), minlength=len(ids))
    means = kept.double().mean(0)
    order = sorted(range(len(ids)), key=lambda i: (-int(votes[i]), -float(means[i]), int(ids[i])))
    return [
        SafetyToken(int(ids[i]), int(votes[i]), float(means[i]), float(mean_plain[ids[i]]), float(mean_steered[ids[i]]))
        for i in order[:size]
        if votes[i] > 0
    ]
