"""The steered teacher: the frozen starting model with the refusal direction in its residual stream."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from finetune.model_passes import eval_mode
from finetune.safesteer.residual_hooks import decoder_blocks, steering


class SteeredTeacher:
    """`model`: the student itself, where it carries a LoRA adapter (one copy of the weights: the adapter is off and the
    hook on while the teacher answers), else a frozen copy of the starting model.

    layer: the block whose input gets `coefficient * direction` [width], at every position.
    """

    def __init__(self, model: Any, direction: Tensor, layer: int, coefficient: float = 1.0) -> None:
        self.model = model
        self.direction = direction
        self.coefficient = coefficient
        # The module, not its number: a wrapper around the model may renumber nothing, but may be another list.
        self.block = decoder_blocks(model)[layer]

    @property
    def shares_weights(self) -> bool:
        """True where student and teacher are the same weights."""
        return hasattr(self.model, "disable_adapter")

    @contextmanager
    def frozen(self, steered: bool = True) -> Iterator[None]:
        """Inside, `model` is the teacher (or, not steered, the starting model): no adapter, no dropout, no gradients.

        Adapter, modes and hook are as before afterwards, after an exception too. A key-value cache must not cross its edge.
        """
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(eval_mode(self.model))
            if self.shares_weights:
                stack.enter_context(self.model.disable_adapter())
            if steered:
                stack.enter_context(steering(self.block, self.direction, self.coefficient))
            yield

    def logits(self, **inputs: Any) -> Tensor:
        """The teacher's logits for a forward pass with these arguments."""
        with self.frozen():
            logits: Tensor = self.model(**inputs, use_cache=False).logits
        return logits
