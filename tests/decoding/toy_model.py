"""A model whose next-token logits are looked up by the whole text so far, with a real key-value cache.

The cache holds each token's id as its key and its position as its value, so that a wrong row, a wrong position, a sibling that
is seen or a padding that is not hidden changes the logits. Equal texts have equal logits, bit for bit.
"""

import hashlib
from types import SimpleNamespace

import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache


class ToyModel(torch.nn.Module):
    """`logits_of(ids)`: a row of logits for the text of these ids."""

    def __init__(self, logits_of, vocabulary: int, end: int) -> None:
        super().__init__()
        self.logits_of = logits_of
        self.embedding = torch.nn.Embedding(vocabulary, 1)
        self.config = SimpleNamespace(max_position_embeddings=64, _attn_implementation="eager")
        self.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=0)
        self.forwards: list[tuple[int, int]] = []  # (rows, tokens of each) of each call

    dtype, device = torch.float32, torch.device("cpu")

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask, position_ids, past_key_values=None, use_cache=True, logits_to_keep=0):
        cache = DynamicCache() if past_key_values is None else past_key_values
        self.forwards.append(tuple(input_ids.shape))
        keys = input_ids.float()[:, None, :, None]
        keys, positions = cache.update(keys, position_ids.float()[:, None, :, None], 0)
        ids, positions = keys[:, 0, :, 0].long(), positions[:, 0, :, 0].long()
        wanted = range(input_ids.shape[1])[-logits_to_keep:] if logits_to_keep else range(input_ids.shape[1])
        rows = [
            torch.stack([self.logits_of(self._seen(row, query, ids, positions, attention_mask, input_ids)) for query in wanted])
            for row in range(len(input_ids))
        ]  # fmt: skip
        return SimpleNamespace(logits=torch.stack(rows), past_key_values=cache)

    @staticmethod
    def _seen(row, query, ids, positions, mask, input_ids):
        """The ids that a query sees, checked to stand at positions 0, 1, 2 ..."""
        total, queries = ids.shape[1], input_ids.shape[1]
        if mask.ndim == 4:
            visible = mask[row, 0, query] == 0
        else:
            assert mask.shape == ids.shape
            visible = (mask[row] == 1) & (torch.arange(total) <= total - queries + query)
        seen = positions[row][visible].tolist()
        assert seen in (list(range(len(seen))), []), seen
        return tuple(ids[row][visible].tolist())


def drawn_logits(seed: int, vocabulary: int, tables: int):
    """Logits of few different rows, so that probabilities and risks tie often."""
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randn((tables, vocabulary), generator=generator) * 2).round()

    def logits_of(ids):
        digest = hashlib.blake2b(f"{seed}|{ids}".encode(), digest_size=8).digest()
        return rows[int.from_bytes(digest, "little") % tables]

    return logits_of


def table_logits(rows: dict[int, list[float]], first: list[float]):
    """Logits from probabilities: by the last of the ids, `first` for a prompt."""

    def logits_of(ids):
        return torch.tensor(rows.get(ids[-1], first)).log()

    return logits_of
