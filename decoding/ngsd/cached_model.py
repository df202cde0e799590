"""One model with its key-value cache over a left-padded batch: feed tokens, take the last ones back, let rows leave."""

import time
from typing import Any


class CachedModel:
    """The state of one side (base or expert) while a batch is decoded.

    Tokens that are taken back by some rows only stay in the cache as masked holes: positions are given explicitly, so the
    row goes on as if they had never been fed. Tokens that every row takes back are cut off.
    `passes`, `tokens` (columns fed) and `seconds` count the work.
    """

    def __init__(self, model: Any, vocabulary_size: int) -> None:
        self._model, self._size = model, vocabulary_size
        self._cache: Any = None
        self._mask_bt: Any = None
        self._positions_b: Any = None
        self._last_position = (context_length(model) or 2**30) - 1
        self.passes, self.tokens, self.seconds = 0, 0, 0.0

    def feed(self, ids_bt: Any, mask_bt: Any | None = None, keep: int = 1) -> Any:
        """Logits [rows, keep, vocabulary] after the last `keep` of the tokens ids_bt [rows, n], on the model's device.

        mask_bt: 0 for padding on the left of a prompt; None: no padding. Columns beyond the tokenizer's vocabulary, which
        only pad the matrix, are cut off.
        """
        import torch

        started, device = time.perf_counter(), self._model.device
        ids_bt = ids_bt.to(device)
        mask_bt = torch.ones_like(ids_bt) if mask_bt is None else mask_bt.to(device)
        if self._mask_bt is None:
            self._mask_bt, self._positions_b = mask_bt, torch.zeros(len(ids_bt), dtype=torch.long, device=device)
        else:
            self._mask_bt = torch.cat([self._mask_bt, mask_bt], dim=1)
        positions = self._positions_b[:, None] + mask_bt.cumsum(-1) - 1
        result = self._model(
            input_ids=ids_bt,
            attention_mask=self._mask_bt,
            # Rows that have ended are fed on until they leave; their positions must not run out of the table.
            position_ids=positions.clamp(min=0, max=self._last_position),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self._cache = result.past_key_values
        self._positions_b = self._positions_b + mask_bt.sum(-1)
        self.passes, self.tokens = self.passes + 1, self.tokens + ids_bt.shape[1]
        self.seconds += time.perf_counter() - started
        return result.logits[:, -keep:, : self._size]

    @property
    def can_take_back(self) -> bool:
        """Whether fed tokens can be taken back exactly: not from sliding windows (holes would count) or recurrent states,
        and not before the first feed, when nothing is known of the cache."""
        from transformers.cache_utils import DynamicLayer

        layers = getattr(self._cache, "layers", [])
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def take_back(self, counts_b: Any) -> None:
        """Row r goes on as if its last counts_b[r] tokens had not been fed. They must be among those fed without padding."""
        import torch

        counts_b = counts_b.to(self._model.device)
        common = int(counts_b.min())
        if common:
            self._cache.crop(-common)
            self._mask_bt = self._mask_bt[:, :-common]
        rest = counts_b - common
        if bool(rest.any()):
            width = self._mask_bt.shape[1]
            holes = torch.arange(width, device=rest.device)[None] >= width - rest[:, None]
            self._mask_bt = self._mask_bt.masked_fill(holes, 0)
        self._positions_b = self._positions_b - counts_b

    def keep_rows(self, rows: Any) -> None:
        """Only these rows stay, in this order. Copies the cache."""
        rows = rows.to(self._model.device)
        self._cache.batch_select_indices(rows)
        self._mask_bt, self._positions_b = self._mask_bt[rows], self._positions_b[rows]


def context_length(model: Any) -> int | None:
    """How many positions the model has; None where its configuration does not say."""
    found = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if found is None else int(found)
