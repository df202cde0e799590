"""Tensor parallelism: which matrix is split along which side, and where activations are summed.

Query, key, value, gate and up are split by output rows (each rank has some of the heads and of the width), output and down
by input columns, the embedding by vocabulary rows. Activations between the layers are whole on every rank.
"""

from typing import Any, Final

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, distribute_module
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from pretrain.model import Decoder

_BY_ROWS: Final = ("attention.query", "attention.key", "attention.value", "feed_forward.gate", "feed_forward.up")
_BY_COLUMNS: Final = ("attention.output", "feed_forward.down")


def split_matrices(decoder: Decoder, mesh: DeviceMesh) -> None:
    """Make every parameter of `decoder` a DTensor on `mesh`. Its logits become DTensors split by vocabulary."""
    parallelize_module(
        decoder, mesh, {"embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())}
    )
    for block in decoder.blocks():
        rules: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in _BY_ROWS}
        rules.update({name: RowwiseParallel() for name in _BY_COLUMNS})
        parallelize_module(block, mesh, rules)
        for norm in (block.attention_norm, block.feed_forward_norm):
            _replicate(norm, mesh)
    _replicate(decoder.norm, mesh)


def _replicate(norm: nn.Module, mesh: DeviceMesh) -> None:
    """The same norm on every rank, its output a DTensor, whose gradient is summed over the ranks once for all readers."""
    distribute_module(norm, mesh, input_fn=_as_replicated, output_fn=_as_one_gradient)


def _as_replicated(norm: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh) -> Any:
    hidden: Tensor = inputs[0]
    return DTensor.from_local(hidden, mesh, [Replicate()], run_check=False)


def _as_one_gradient(norm: nn.Module, output: DTensor, mesh: DeviceMesh) -> Any:
    # In the backward pass `from_local` turns the partial sums of all readers, added up, into one whole gradient.
    return DTensor.from_local(output.to_local(), mesh, [Replicate()], run_check=False)
