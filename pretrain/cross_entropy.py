"""Cross-entropy that turns its log-probabilities into the gradient in place: one buffer and some passes fewer."""

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn import functional

# Labels of this value do not count (torch's own default).
IGNORED: Final = -100


class _InPlaceCrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(logits)[label]; the gradient, softmax - one-hot, overwrites the log-probabilities."""

    @staticmethod
    def forward(ctx: Any, logits_nv: Tensor, labels_n: Tensor) -> Tensor:
        counted_n = labels_n != IGNORED
        index_n1 = labels_n.clamp(min=0).unsqueeze(1)
        log_probabilities_nv = torch.log_softmax(logits_nv, dim=-1)
        picked_n1 = log_probabilities_nv.gather(1, index_n1)
        loss = -picked_n1.squeeze(1).masked_fill(~counted_n, 0.0).sum()
        gradient_nv = log_probabilities_nv.exp_()
        gradient_nv.scatter_add_(1, index_n1, torch.full_like(picked_n1, -1.0))
        if not bool(counted_n.all()):
            gradient_nv.masked_fill_(~counted_n.unsqueeze(1), 0.0)
        ctx.save_for_backward(gradient_nv)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        (gradient_nv,) = ctx.saved_tensors
        return gradient_nv.mul_(scale), None  # a second backward pass raises: its buffer has been used


def summed_cross_entropy(logits_btv: Tensor, labels_bt: Tensor) -> Tensor:
    """Sum over the counted labels of their negative log-likelihood, in nats. Logits may be split by vocabulary."""
    logits_nv, labels_n = logits_btv.flatten(0, 1).float(), labels_bt.flatten()
    if isinstance(logits_nv, DTensor) or not torch.is_grad_enabled():
        return functional.cross_entropy(logits_nv, labels_n, reduction="sum", ignore_index=IGNORED)
    loss: Tensor = _InPlaceCrossEntropy.apply(logits_nv, labels_n)
    return loss
