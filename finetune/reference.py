"""Values of the frozen starting model at the positions of a batch: the adapter off, a second copy, or kept on disk.

What is read at a position is a `Reading`: the logits of a few columns, or a function of all logits. Where the model's head is
a plain linear layer, the few columns are computed alone, for both models by the same product, so that they are equal bit
for bit as long as the hidden states are; a head with a soft cap or a scale is read through the model's own forward.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from finetune.errors import FinetuneModelError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """What is read at N positions. `columns`: only these logits are needed, and given; none: all of them.

    `values(logits [N, columns or vocabulary], targets [N]) -> [N, width]`; `targets` are the ids that are predicted there.
    """

    values: Callable[["Tensor", "Tensor"], "Tensor"]
    columns: Sequence[int] | None = None


class Reference(Protocol):
    """The starting model's side of a comparison."""

    def values(self, batch: Mapping[str, "Tensor"], mask: "Tensor", targets: "Tensor") -> "Tensor":
        """[positions, width] in row order for the True entries of `mask` [batch, length]; takes no gradient."""
        ...


def plain_head(model: Any) -> Any:
    """The output layer if the model's logits are this layer of the decoder's last hidden state and no more; else None.

    Decided by computing both on a few tokens, since soft caps and scales have no common name in configurations.
    """
    import torch

    from finetune.model_passes import eval_mode

    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or not hasattr(model, "get_decoder"):
        return None
    ids = torch.arange(min(4, head.out_features), device=head.weight.device)[None]
    with torch.no_grad(), eval_mode(model):
        own = model(input_ids=ids, use_cache=False).logits
        ours = head(model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state)
    return head if own.shape == ours.shape and torch.allclose(own, ours, atol=1e-4, rtol=1e-4) else None


def head_columns(head: Any, hidden: "Tensor", columns: "Tensor") -> "Tensor":
    """Logits [..., |columns|] of a plain head from hidden states [..., width]."""
    import torch

    bias = None if head.bias is None else head.bias[columns]
    return torch.nn.functional.linear(hidden, head.weight[columns], bias)


class FrozenReader:
    """Reads a model without gradient, in eval mode, as it stands; train flag and adapter are put back in any case."""

    def __init__(self, model: Any, reading: Reading) -> None:
        self._model, self._reading = model, reading
        self._base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._adapter = model if hasattr(model, "disable_adapter") else None
        with self._frozen():
            self._head = plain_head(self._base) if reading.columns is not None else None

    def values(self, batch: Mapping[str, "Tensor"], mask: "Tensor", targets: "Tensor") -> "Tensor":
        """See `Reference`."""
        import torch

        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        with torch.no_grad(), self._frozen():
            if self._head is not None:
                hidden = self._base.get_decoder()(**inputs).last_hidden_state[mask]
                columns = torch.as_tensor(self._reading.columns, device=hidden.device)
                return self._reading.values(head_columns(self._head, hidden, columns), targets)
            kept = mask.any(dim=0).nonzero().squeeze(1)
            logits = self._base(**inputs, logits_to_keep=kept).logits[mask[:, kept]]
            return self._reading.values(narrowed(logits, self._reading), targets)

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        from finetune.model_passes import eval_mode

        with eval_mode(self._model):
            if self._adapter is None:
                yield
            else:
                with self._adapter.disable_adapter():
                    yield


def adapter_off_reference(model: Any, reading: Reading) -> FrozenReader:
    """The starting model behind a LoRA model: the same weights with the adapter off.

    Raises FinetuneModelError where there is no adapter to switch off, or it is merged into the weights.
    """
    if not hasattr(model, "disable_adapter"):
        raise FinetuneModelError(
            "reference: online needs a LoRA adapter that can be switched off; with full fine-tuning the trained weights are "
            "the only copy, so use a frozen copy or `reference: cached`"
        )
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise FinetuneModelError(
            "the adapter is merged into the weights, so the starting model is gone: unmerge it first"
        )
    return FrozenReader(model, reading)


def frozen_copy_reference(model: Any, reading: Reading) -> FrozenReader:
    """A second copy of the weights as they are now, for full fine-tuning."""
    import copy

    return FrozenReader(copy.deepcopy(model).requires_grad_(False), reading)


def narrowed(logits: "Tensor", reading: Reading) -> "Tensor":
    """The columns that a reading wants, out of all logits."""
    import torch

    if reading.columns is None:
        return logits
    return logits.index_select(-1, torch.as_tensor(reading.columns, device=logits.device))
