"""Forward passes over prompts of different lengths: left-padded batches, logits of the last positions, answers; no gradients."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

TokenIds = Sequence[int]


def left_padded(rows: Sequence[TokenIds], pad_id: int, device: Any = "cpu") -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `position_ids` [rows, longest]; positions count from each row's first token."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    parts = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(device) for name, tensor in parts.items()}


def batches_by_length(rows: Sequence[TokenIds], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of similar length, longest first: least padding, and too little memory shows at once."""
    order = sorted(range(len(rows)), key=lambda index: (-len(rows[index]), index))
    yield from (order[start : start + size] for start in range(0, len(order), size))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off; afterwards every module is in the mode it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def last_logits(model: Any, rows: Sequence[TokenIds], pad_id: int, batch_size: int, keep: int = 1) -> Tensor:
    """Logits [rows, keep, vocabulary] at the last `keep` positions of each row, float32, on the CPU."""
    found: list[Tensor | None] = [None] * len(rows)
    with torch.inference_mode(), eval_mode(model):
        for indices in batches_by_length(rows, batch_size):
            batch = left_padded([rows[i] for i in indices], pad_id, model.device)
            logits = model(**batch, use_cache=False, logits_to_keep=keep).logits.float().cpu()
            for index, row in zip(indices, logits, strict=True):
                found[index] = row
    return torch.stack([row for row in found if row is not None])


def answer_batch(
    model: Any,
    prompts: Sequence[TokenIds],
    choose: Callable[[Tensor, int], Tensor],
    new_tokens: int,
    end_ids: Collection[int],
    pad_id: int,
) -> list[list[int]]:
    """The answer to each prompt, through its end token, or cut at `new_tokens`. `choose(logits [rows, vocabulary], step)` gives
    the tokens [rows]. Nothing of the checkpoint's own generation settings is used."""
    batch = left_padded(prompts, pad_id, model.device)
    ids, mask, positions = batch["input_ids"], batch["attention_mask"], batch["position_ids"]
    ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=model.device)
    chosen = []
    done = torch.zeros(len(prompts), dtype=torch.bool, device=model.device)
    cache: Any = None
    with torch.inference_mode(), eval_mode(model):
        for step in range(new_tokens):
            result = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            )  # fmt: skip
            cache = result.past_key_values
            tokens = choose(result.logits[:, -1], step)
            chosen.append(tokens)
            done |= torch.isin(tokens, ends)
            if bool(done.all()):
                break
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
    return [_through_end(row, end_ids) for row in torch.stack(chosen, 1).tolist()]


def _through_end(tokens: list[int], end_ids: Collection[int]) -> list[int]:
    first = next((place for place, token in enumerate(tokens) if token in end_ids), len(tokens) - 1)
    return tokens[: first + 1]
