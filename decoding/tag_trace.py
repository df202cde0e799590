"""P(tag) along a text that another decoder wrote."""

from collections.abc import Sequence
from typing import Any


def tag_trace(model: Any, prompt_ids: Sequence[int], new_ids: Sequence[int], tag_token_id: int) -> list[float]:
    """P(tag) after each new token, by one forward pass over prompt and answer."""
    import torch

    ids = torch.tensor([[*prompt_ids, *new_ids]], device=model.device)
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt_ids) :].float()
    found: list[float] = logits.log_softmax(-1)[:, tag_token_id].exp().tolist()
    return found
