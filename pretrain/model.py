"""A Llama-shaped decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.

Shape suffixes: b batch, t position, d width, h head, e head width, v vocabulary. The six matrices of a layer are
separate modules, so that tensor parallelism can split each by its own rule and FSDP2 can wrap each block.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pretrain.recipe import ModelConfig

# Name and whole shape of a parameter to its values, on the CPU.
WeightSource = Callable[[str, torch.Size], Tensor]


def rotary_tables(positions: int, head_size: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine [positions, head_size] of RoPE in the two-halves layout of Llama (float32)."""
    frequencies = 1.0 / theta ** (torch.arange(0, head_size, 2, device=device).float() / head_size)
    angles = torch.outer(torch.arange(positions, device=device).float(), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(heads_bhte: Tensor, cosine_te: Tensor, sine_te: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_size / 2) of every head by its position's angle, in float32; keeps the dtype."""
    first, second = heads_bhte.chunk(2, dim=-1)
    return (heads_bhte * cosine_te + torch.cat((-second, first), dim=-1) * sine_te).to(heads_bhte.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.grouped = config.kv_heads != config.heads
        kv_width = config.kv_heads * config.head_size
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.key = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.value = nn.Linear(config.hidden_size, kv_width, bias=False)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_btd: Tensor, cosine_te: Tensor, sine_te: Tensor) -> Tensor:
        # The number of heads is left to the shape: under tensor parallelism each rank holds a part of them.
        query, key, value = (
            projection(hidden_btd).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        query, key = rotate(query, cosine_te, sine_te), rotate(key, cosine_te, sine_te)
        mixed_bhte = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=self.grouped)
        return self.output(mixed_bhte.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.ffn_hidden_size, bias=False)
        self.up = nn.Linear(config.hidden_size, config.ffn_hidden_size, bias=False)
        self.down = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden_btd: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(hidden_btd)) * self.up(hidden_btd))


class Block(nn.Module):
    """One pre-norm layer. With `recompute` its backward pass computes it again from its input (Megatron's "full")."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.recompute = False

    def forward(self, hidden_btd: Tensor, cosine_te: Tensor, sine_te: Tensor) -> Tensor:
        if self.recompute:  # in here, so that compilation and FSDP2 wrap it, and parameter names stay
            output: Tensor = checkpoint(
                self._layer, hidden_btd, cosine_te, sine_te, use_reentrant=False, preserve_rng_state=False
            )
            return output
        return self._layer(hidden_btd, cosine_te, sine_te)

    def _layer(self, hidden_btd: Tensor, cosine_te: Tensor, sine_te: Tensor) -> Tensor:
        hidden_btd = hidden_btd + self.attention(self.attention_norm(hidden_btd), cosine_te, sine_te)
        return hidden_btd + self.feed_forward(self.feed_forward_norm(hidden_btd))


class Decoder(nn.Module):
    """Token ids [batch, positions] to logits [batch, positions, padded vocabulary]."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocabulary(vocabulary_size), config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)

    def blocks(self) -> list[Block]:
        """The layers, from the first to the last."""
        return [block for block in self.layers if isinstance(block, Block)]

    def forward(self, ids_bt: Tensor) -> Tensor:
        cosine_te, sine_te = rotary_tables(
            ids_bt.shape[1], self.config.head_size, self.config.rope_theta, ids_bt.device
        )
        hidden_btd = self.embedding(ids_bt)
        for block in self.layers:
            hidden_btd = block(hidden_btd, cosine_te, sine_te)
        return functional.linear(self.norm(hidden_btd), self.embedding.weight)


def initial_weights(config: ModelConfig, seed: int) -> WeightSource:
    """Every matrix drawn from N(0, init_std), norms of one; the same seed gives the same bits on any number of ranks.

    The draws follow each other: ask for all parameters, in the order of `Decoder.named_parameters`.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: torch.Size) -> Tensor:
        return (
            torch.empty(shape).normal_(0.0, config.init_std, generator=random) if len(shape) > 1 else torch.ones(shape)
        )

    return draw


def put_weights(decoder: Decoder, weights: WeightSource) -> None:
    """Fill every parameter, one whole matrix at a time; of a DTensor each rank keeps its own part."""
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            whole = weights(name, parameter.shape).to(parameter.device)
            if isinstance(parameter, DTensor):
                # Every rank has the same values: nothing needs to be sent.
                whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
            parameter.copy_(whole)


def new_decoder(config: ModelConfig, vocabulary_size: int, seed: int) -> Decoder:
    """A decoder with its initial weights, in this process alone."""
    decoder = Decoder(config, vocabulary_size)
    put_weights(decoder, initial_weights(config, seed))
    return decoder


def flops_per_token(config: ModelConfig, vocabulary_size: int, sequence_length: int) -> int:
    """Floating-point operations of forward and backward for one token: 6 a matrix weight, plus causal attention.

    Attention scores and mixing cost 2 * sequence_length * hidden_size multiply-adds a layer, half of it masked, times
    three for the backward pass.
    """
    kv_width = config.kv_heads * config.head_size
    layer = 2 * config.hidden_size * (config.hidden_size + kv_width) + 3 * config.hidden_size * config.ffn_hidden_size
    head = config.padded_vocabulary(vocabulary_size) * config.hidden_size
    return 6 * (config.layers * layer + head) + 6 * config.layers * sequence_length * config.hidden_size
