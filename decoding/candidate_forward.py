"""The look-ahead: one forward pass over all candidates of all beams, with a key-value cache.

The pass gives both a candidate's risk and, for those that survive, the distribution of their next token: nothing is computed
twice. Two ways, with equal results: `rows` copies the cache for every candidate (any model with a cache); `tree` feeds the
candidates of a beam as siblings of one row and hides them from each other by the attention mask, so that the cache of a beam is
there once (models with plain full attention).
"""

import inspect
from typing import TYPE_CHECKING, Any, Literal

from classifiers.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

LookAhead = Literal["auto", "rows", "tree"]


class CandidateForward:
    """Feeds prompts, then candidates, and keeps the cache of the survivors. Rows of different prompts are independent."""

    def __init__(self, model: Any, look_ahead: LookAhead) -> None:
        self._model = model
        self._look_ahead = look_ahead
        self._accepts = frozenset(inspect.signature(model.forward).parameters)
        self._cache: Any = None
        self._mask: Any = None  # [rows, tokens so far]
        self._rows: Any = None  # of the cache, one for each live beam
        self._tree = False

    def prefill(self, input_ids: "Tensor", attention_mask: "Tensor") -> "Tensor":
        """Logits [prompts, vocabulary] after each prompt. Raises ModelError for a model whose cache cannot be reordered."""
        import torch

        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._forward(input_ids, attention_mask, positions, last_only=True)[:, -1]
        if not hasattr(self._cache, "reorder_cache"):
            raise ModelError(
                f"{type(self._model).__name__} has no key-value cache whose rows can be reordered, which beams need: "
                "take a model with attention, or another decoder"
            )
        self._mask = attention_mask
        self._rows = torch.arange(len(input_ids), device=input_ids.device)
        possible = _plain_attention(self._model, self._cache) and "position_ids" in self._accepts
        if self._look_ahead == "tree" and not possible:
            raise ModelError(
                f'look_ahead "tree" needs full attention (sdpa or eager) and a plain cache, which {type(self._model).__name__} '
                'does not have here: take "rows" or "auto"'
            )
        self._tree = possible and self._look_ahead != "rows"
        return logits

    def look_ahead(self, candidates_rn: "Tensor") -> "Tensor":
        """Logits [rows, candidates, vocabulary] after each candidate token of each live beam."""
        return self._as_siblings(candidates_rn) if self._tree else self._as_rows(candidates_rn)

    def keep(self, rows: "Tensor", columns: "Tensor", candidates: int) -> None:
        """Only these candidates (row, column) of the last look-ahead stay, in this order; all others are forgotten."""
        if self._tree:
            _keep_siblings(self._cache, rows, columns, candidates)
            self._rows = rows.new_tensor(range(len(rows)))
        else:
            self._rows = rows * candidates + columns
        mask = self._mask[rows]
        self._mask = _with_ones(mask, 1)

    def _as_rows(self, candidates_rn: "Tensor") -> "Tensor":
        count = candidates_rn.shape[1]
        self._cache.reorder_cache(self._rows.repeat_interleave(count))
        mask = _with_ones(self._mask, 1).repeat_interleave(count, dim=0)
        logits = self._forward(candidates_rn.reshape(-1, 1), mask, mask.sum(-1, keepdim=True) - 1, last_only=True)
        return logits.reshape(*candidates_rn.shape, -1)

    def _as_siblings(self, candidates_rn: "Tensor") -> "Tensor":
        import torch

        rows, count = candidates_rn.shape
        dtype = self._model.dtype
        hidden = torch.finfo(dtype).min
        prefix = (self._mask == 0).to(dtype)[:, None, None, :].expand(rows, 1, count, -1)
        siblings = (1 - torch.eye(count, dtype=dtype, device=candidates_rn.device)).expand(rows, 1, count, count)
        mask = torch.cat([prefix, siblings], dim=-1) * hidden
        positions = self._mask.sum(-1, keepdim=True).expand(rows, count)
        return self._forward(candidates_rn, mask, positions, last_only=False)

    def _forward(self, input_ids: "Tensor", mask: "Tensor", positions: "Tensor", last_only: bool) -> "Tensor":
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask, "use_cache": True}
        if self._cache is not None:
            inputs["past_key_values"] = self._cache
        if "position_ids" in self._accepts:
            inputs["position_ids"] = positions
        if last_only and "logits_to_keep" in self._accepts:
            inputs["logits_to_keep"] = 1
        result = self._model(**inputs)
        self._cache = getattr(result, "past_key_values", None)
        logits: Tensor = result.logits
        return logits


def _with_ones(mask: "Tensor", columns: int) -> "Tensor":
    import torch

    return torch.cat([mask, mask.new_ones((len(mask), columns))], dim=-1)


def _plain_attention(model: Any, cache: Any) -> bool:
    """Whether attention reads a float mask [rows, 1, query, keys] as it is, and every layer keeps all keys."""
    from transformers.cache_utils import DynamicLayer

    implementation = getattr(model.config, "_attn_implementation", None)
    layers = getattr(cache, "layers", [])
    plain = all(type(layer) is DynamicLayer and layer.is_initialized for layer in layers)
    return implementation in ("sdpa", "eager") and bool(layers) and plain


def _keep_siblings(cache: Any, rows: "Tensor", columns: "Tensor", candidates: int) -> None:
    """Each survivor's cache: its row's prefix, and of the siblings its own key and value."""
    import torch

    for layer in cache.layers:
        length = layer.keys.shape[-2] - candidates
        for name in ("keys", "values"):
            states = getattr(layer, name)
            own = states[rows, :, length + columns][:, :, None]
            setattr(layer, name, torch.cat([states[:, :, :length].index_select(0, rows), own], dim=-2))
