"""Hooks on a decoder's residual stream: add a direction, remove one, read it. Every one is off again after its block."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from classifiers.errors import ModelError
from finetune.safesteer.refusal_formulas import ablate, steer


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The transformer blocks of a causal LM, in order, inside a peft wrapper too. Raises ModelError for other models."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder = plain.get_decoder() if hasattr(plain, "get_decoder") else None
    blocks = getattr(decoder, "layers", None)
    if not isinstance(blocks, nn.ModuleList) or not all(hasattr(b, "self_attn") and hasattr(b, "mlp") for b in blocks):
        raise ModelError(
            f"{type(plain).__name__}: SafeSteer needs a decoder of blocks with `self_attn` and `mlp` (Llama, Qwen, Mistral)"
        )
    return blocks


@contextmanager
def steering(block: nn.Module, direction: Tensor, coefficient: float = 1.0) -> Iterator[None]:
    """`coefficient * direction` [width] is added to the residual stream that enters `block`, at every position."""
    with _changed_input(block, lambda hidden: steer(hidden, direction.to(hidden), coefficient)):
        yield


@contextmanager
def ablating(blocks: Sequence[Any], direction: Tensor) -> Iterator[None]:
    """`direction` is projected out of every block's input, attention output and MLP output."""

    def without(hidden: Tensor) -> Tensor:
        return ablate(hidden, direction.to(hidden))

    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(_changed_input(block, without))
            for part in (block.self_attn, block.mlp):
                stack.enter_context(_changed_output(part, without))
        yield


@contextmanager
def reading_inputs(blocks: Sequence[nn.Module], read: Callable[[int, Tensor], None]) -> Iterator[None]:
    """`read(layer, hidden)` is called with the residual stream [batch, positions, width] that enters each block."""
    with ExitStack() as stack:
        for layer, block in enumerate(blocks):
            stack.enter_context(_changed_input(block, _reader(layer, read)))
        yield


def _reader(layer: int, read: Callable[[int, Tensor], None]) -> Callable[[Tensor], Tensor]:
    def unchanged(hidden: Tensor) -> Tensor:
        read(layer, hidden)
        return hidden

    return unchanged


@contextmanager
def _changed_input(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _changed_output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    def hook(_: nn.Module, args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
