"""The processes of a run (those of `torchrun`, or this one alone) and the mesh that they form."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from pretrain.device_peaks import peak_tflops
from pretrain.errors import PretrainRecipeError
from pretrain.recipe import PretrainRecipe

DIMENSIONS: Final = ("replicate", "shard", "tensor")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run.

    `mesh` has the dimensions replicate x shard x tensor; ranks that differ in the last alone read the same samples.
    It is None for one process in fp32, which trains ordinary tensors without a process group. `checkpoint_group` is the
    gloo group that checkpoints are coordinated over while training goes on in the other one.
    """

    rank: int
    count: int
    device: torch.device
    mesh: DeviceMesh | None = None
    checkpoint_group: distributed.ProcessGroup | None = None

    @property
    def tensor_ranks(self) -> int:
        """Ranks that share each matrix."""
        return 1 if self.mesh is None else self.mesh.size(2)

    @property
    def data_ranks(self) -> int:
        """Ranks, or groups of tensor-parallel ranks, that read different samples."""
        return self.count // self.tensor_ranks

    @property
    def data_rank(self) -> int:
        """Which share of the samples this process reads."""
        return self.rank // self.tensor_ranks

    @property
    def counts_once(self) -> bool:
        """True on one of the ranks that read the same samples: the one whose sums count."""
        return self.rank % self.tensor_ranks == 0

    @property
    def peak_tflops(self) -> float | None:
        """Peak of this device in TFLOP/s (dense bf16), where it is known."""
        return peak_tflops(torch.cuda.get_device_name(self.device)) if self.device.type == "cuda" else None

    def sum_over_data(self, values: list[float]) -> list[float]:
        """Each value summed over the data-parallel ranks, in float64; the same on every rank."""
        if self.mesh is None:
            return values
        total = torch.tensor(
            values if self.counts_once else [0.0] * len(values), dtype=torch.float64, device=self.device
        )
        distributed.all_reduce(total)
        sums: list[float] = total.tolist()
        return sums

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` is true on one rank at least, tensor-parallel ones included; the same on every rank."""
        if self.mesh is None:
            return flag
        highest = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        return bool(highest.item())

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        if self.checkpoint_group is not None:
            distributed.barrier(self.checkpoint_group)


@contextmanager
def open_ranks(recipe: PretrainRecipe) -> Iterator[Ranks]:
    """The ranks of this run while entered. Raises `PretrainRecipeError` where their number does not fit the recipe.

    The environment of `torchrun` (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) says which process this is; a
    process group that is open already is used and left open.
    """
    opened = False
    count = distributed.get_world_size() if distributed.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
    check_ranks(recipe, count)
    device = _device()
    if count == 1 and recipe.precision == "fp32":
        yield Ranks(0, 1, device)
        return
    try:
        if not distributed.is_initialized():
            _open_group(count, device)
            opened = True
        yield _form_mesh(recipe, count, device)
    finally:
        if opened:
            distributed.destroy_process_group()


def check_ranks(recipe: PretrainRecipe, count: int) -> None:
    """Raise `PretrainRecipeError` where `count` processes cannot run the recipe."""
    if count % recipe.tensor_parallel:
        raise PretrainRecipeError(
            f"tensor_parallel {recipe.tensor_parallel} does not divide the {count} processes of this run; start it with "
            f"torchrun --nproc-per-node, or set tensor_parallel"
        )
    data_ranks = count // recipe.tensor_parallel
    if recipe.shard_ranks is not None and data_ranks % recipe.shard_ranks:
        raise PretrainRecipeError(
            f"shard_ranks {recipe.shard_ranks} does not divide the {data_ranks} data-parallel ranks"
        )
    if recipe.global_batch_size % (recipe.micro_batch_size * data_ranks):
        raise PretrainRecipeError(
            f"global_batch_size {recipe.global_batch_size} must be a multiple of micro_batch_size "
            f"{recipe.micro_batch_size} x {data_ranks} data-parallel ranks"
        )


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _open_group(count: int, device: torch.device) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if count == 1:  # bf16 in one process: a store in memory, so that no port is needed
        distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    else:
        distributed.init_process_group(backend)


def _form_mesh(recipe: PretrainRecipe, count: int, device: torch.device) -> Ranks:
    # It warns about gathers over two dimensions: those happen in saves of single matrices and in the gradient's norm.
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    shard = recipe.shard_ranks or count // recipe.tensor_parallel
    shape = (count // recipe.tensor_parallel // shard, shard, recipe.tensor_parallel)
    mesh = init_device_mesh(device.type, shape, mesh_dim_names=DIMENSIONS)
    group = distributed.new_group(backend="gloo")
    return Ranks(distributed.get_rank(), count, device, mesh, group)
