"""Draws without replacement that depend on the seed and the prompt alone, not on the batch."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def prompt_generator(seed: int, prompt_ids: Sequence[int], number: int = 0) -> np.random.Generator:
    """Numbers that the seed, the prompt's ids and `number` (which sample of the prompt) fix."""
    text = f"{seed}|{number}|{','.join(map(str, prompt_ids))}"
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


def draw_scores(log_probs_rv: "Tensor", noise_rv: np.ndarray, temperature: float, top_p: float) -> "Tensor":
    """[rows, vocabulary]: log p / temperature + Gumbel noise. Tokens by falling score are drawn one after the other, without
    replacement, from the tempered distribution (Gumbel-top-k, Kool et al. 2019). -inf outside the nucleus of `top_p`."""
    import torch

    scaled = log_probs_rv / temperature
    if top_p < 1:
        probabilities, order = scaled.softmax(-1).sort(dim=-1, descending=True, stable=True)
        outside = torch.zeros_like(scaled, dtype=torch.bool)
        outside.scatter_(-1, order, probabilities.cumsum(-1) - probabilities >= top_p)
        scaled = scaled.masked_fill(outside, float("-inf"))
    return scaled + torch.from_numpy(noise_rv).to(scaled)


def gumbel_noise(generator: np.random.Generator, rows: int, vocabulary: int) -> np.ndarray:
    """[rows, vocabulary] standard Gumbel draws."""
    return generator.gumbel(size=(rows, vocabulary)).astype(np.float32)
