"""The decoder spread over the mesh: tensor parallelism, recomputation, compilation, FSDP2, in this order."""

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from pretrain.mesh import Ranks
from pretrain.model import Decoder, WeightSource, put_weights
from pretrain.recipe import PretrainRecipe
from pretrain.tensor_parallel import split_matrices


def parallel_decoder(recipe: PretrainRecipe, vocabulary_size: int, ranks: Ranks, weights: WeightSource) -> Decoder:
    """A decoder on this rank's device, with `weights`. With a mesh, every parameter is a DTensor in float32.

    It is built without storage, so that no rank ever holds more than its own parts and one whole matrix.
    """
    with torch.device("meta"):
        decoder = Decoder(recipe.model, vocabulary_size)
    if ranks.mesh is not None and ranks.tensor_ranks > 1:
        split_matrices(decoder, ranks.mesh["tensor"])
    for block in decoder.blocks():
        block.recompute = recipe.recompute == "full"
        if recipe.compile:
            block.compile()
    if ranks.mesh is not None:
        _shard(decoder, _data_mesh(ranks.mesh), recipe.precision == "bf16")
    decoder.to_empty(device=ranks.device)
    put_weights(decoder, weights)
    return decoder


def _data_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The dimensions that FSDP2 works on: two where whole copies of the weights are kept side by side."""
    return mesh["shard"] if mesh.size(0) == 1 else mesh["replicate", "shard"]


def _shard(decoder: Decoder, mesh: DeviceMesh, bf16: bool) -> None:
    """Layer by layer; the embedding (which is the head too) and the last norm stay gathered between both passes.

    Inputs are not cast: hidden states have the weights' dtype from the embedding on, and the rotary tables stay exact.
    """
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if bf16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    modules: list[torch.nn.Module] = [*decoder.blocks(), decoder]
    for module in modules:
        sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
        assert isinstance(sharded, FSDPModule)
