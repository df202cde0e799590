"""The cross-entropy that reuses its buffer, against torch's."""

import pytest
import torch
from torch.nn import functional

from pretrain.cross_entropy import IGNORED, summed_cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignored", [0, 3, 12])
def test_loss_and_gradient_are_those_of_torch(dtype, ignored):
    random = torch.Generator().manual_seed(0)
    logits = (5 * torch.randn(2, 6, 50, generator=random)).to(dtype)
    labels = torch.randint(0, 50, (2, 6), generator=random)
    labels.view(-1)[:ignored] = IGNORED
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = summed_cross_entropy(ours, labels)
    expected = functional.cross_entropy(theirs.float().flatten(0, 1), labels.flatten(), reduction="sum")
    (loss / 7).backward()
    (expected / 7).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)
    with torch.no_grad():
        torch.testing.assert_close(summed_cross_entropy(logits, labels), expected)


def test_a_second_backward_pass_is_refused():
    loss = summed_cross_entropy(torch.randn(1, 2, 5, requires_grad=True), torch.tensor([[1, 2]]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
