"""Which positions of a row a loss looks at. Index t stands for the logits at t, which predict token t + 1."""

from typing import TYPE_CHECKING, Literal

from finetune.chat_data import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

Positions = Literal["response", "all_nonpad", "first_k", "none"]


def next_labels(labels: "Tensor") -> "Tensor":
    """Label that the logits at each index predict [batch, length]: `labels` moved one to the left, -100 at the end."""
    import torch

    return torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def turn_offsets(labels: "Tensor") -> "Tensor":
    """Number of the predicted token within its answer [batch, length]: 1 at the last prompt index of every assistant turn,
    counting up through the turn, 0 where nothing is predicted."""
    supervised = next_labels(labels) != IGNORED
    counted = supervised.long().cumsum(dim=1)
    before_turn = counted.masked_fill(supervised, 0).cummax(dim=1).values
    return (counted - before_turn) * supervised


def position_mask(
    labels: "Tensor", attention_mask: "Tensor", positions: Positions = "response", first_k: int = 5
) -> "Tensor":
    """Anchored indices, bool [batch, length], from labels (-100: ignored) and attention mask (0: padding), padded right.

    response: every index whose next token has a label, so the last prompt index and not the last token. first_k: the
    first `first_k` of these in each assistant turn. all_nonpad: every index whose next token is no padding. none: no index.
    """
    if positions == "none":
        return labels.new_zeros(labels.shape).bool()
    if positions == "response":
        return next_labels(labels) != IGNORED
    if positions == "first_k":
        offsets = turn_offsets(labels)
        return (offsets >= 1) & (offsets <= first_k)
    return next_labels(labels.new_zeros(labels.shape).masked_fill(attention_mask == 0, IGNORED)) != IGNORED
