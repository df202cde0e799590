"""Greedy and sampled decoding of a left-padded batch with one key-value cache, from which finished rows leave early."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rephrasers.keyed_draws import keyed_uniforms

# Rows leave when this share of the batch is done: each removal copies the cache.
LEAVING_SHARE = 0.125


def decode_batch(
    model: Any,
    token_ids: Sequence[Sequence[int]],
    new_tokens: int,
    end_ids: frozenset[int],
    pad_id: int,
    draws: np.ndarray | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
) -> list[list[int]]:
    """The new token ids of each row, at most `new_tokens`; an end token is the last one where the row came to one.

    token_ids: prompts, each of at least one id. draws [rows, new_tokens]: uniforms in [0, 1) that sampling inverts; None:
    greedy. A row's result does not depend on its neighbours, up to the rounding of `model`'s dtype.
    """
    import torch

    rows, longest = len(token_ids), max(map(len, token_ids))
    device = model.device
    ids = torch.full((rows, longest), pad_id, dtype=torch.long)
    mask = torch.zeros((rows, longest + new_tokens), dtype=torch.long)
    for row, prompt in enumerate(token_ids):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    out: list[list[int]] = [[] for _ in range(rows)]
    alive = torch.arange(rows)
    finished = torch.zeros(rows, dtype=torch.bool)
    ends = torch.tensor(sorted(end_ids), dtype=torch.long)
    positions = (mask[:, :longest].cumsum(-1) - 1).clamp(min=0)
    cache: Any = None
    for step in range(new_tokens):
        result = model(
            input_ids=ids,
            attention_mask=mask[:, : longest + step],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = result.past_key_values
        chosen = _choose(result.logits[:, -1], alive, step, draws, temperature, top_p)
        before, finished = finished, finished | torch.isin(chosen, ends)
        for row, token, done in zip(alive.tolist(), chosen.tolist(), before.tolist(), strict=True):
            if not done:
                out[row].append(token)
        if bool(finished.all()):
            break
        ids, positions = chosen[:, None].to(device), positions[:, -1:] + 1
        if float(finished.float().mean()) >= LEAVING_SHARE:
            stay = (~finished).nonzero()[:, 0]
            cache.batch_select_indices(stay.to(device))
            ids, positions, mask = (part[stay.to(device)] for part in (ids, positions, mask))
            alive, finished = alive[stay], finished[stay]
    return out


def _choose(logits: Any, alive: Any, step: int, draws: np.ndarray | None, temperature: float, top_p: float) -> Any:
    """The next token of each row [rows], on the CPU."""
    import torch

    if draws is None:
        return logits.argmax(-1).cpu()
    scaled = logits.float().cpu() / temperature
    probabilities, order = torch.softmax(scaled, -1).sort(stable=True, dim=-1, descending=True)
    cumulated = probabilities.cumsum(-1)
    # The nucleus: the likeliest tokens up to and with the one that reaches top_p.
    kept = probabilities * (cumulated - probabilities < top_p)
    cumulated = kept.cumsum(-1)
    uniforms = torch.from_numpy(draws[alive.numpy(), step]).float()[:, None] * cumulated[:, -1:]
    place = (cumulated <= uniforms).sum(-1, keepdim=True)
    # In float32 a draw just below 1 is 1: the last token that may be drawn.
    return order.gather(-1, place.minimum((kept > 0).sum(-1, keepdim=True) - 1))[:, 0]


def prompt_draws(texts: Sequence[str], new_tokens: int, seed: int) -> np.ndarray:
    """[texts, new_tokens] uniforms, fixed by the seed and each text (stream "answer")."""
    return np.stack([keyed_uniforms(seed, "answer", text, new_tokens) for text in texts])
