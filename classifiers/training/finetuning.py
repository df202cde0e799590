"""Fine-tunes an encoder together with its heads: low-rank adapters on its top layers, or all of its weights.

The heads start from the convex solution on the frozen encoder (head first, then the rest; paper, section on the embedding
scorer). Only training is in bfloat16; what is stored is merged and run by `classifiers.encoder` in its own precision.
"""

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from classifiers.adapter import DENSE, DOWN, UP
from classifiers.errors import DataError

if TYPE_CHECKING:
    import torch

_LAYER_NUMBER = re.compile(r"\.(\d+)\.")
HEAD_SCALE = 16.0  # vectors have length 1: scaled, a head learns at the pace of the layers below it


@dataclass(frozen=True)
class Finetuning:
    """How to fine-tune. Defaults are those of the shipped weights."""

    method: Literal["head", "lora", "full"] = "lora"
    """head: the encoder stays as it is; lora: low-rank updates of its top layers; full: all of their weights."""
    layers: int = 3
    """How many of the top layers are trained; the others stay as they are and cost no backward pass."""
    rank: int = 16
    objective: Literal["multiclass", "ordinal"] = "ordinal"
    """What the level head learns: cross-entropy alone (the paper's choice), or with it that of "at least k" for each k."""
    token_dropout: float = 0.15
    """Share of the tokens that the mean over tokens leaves out in training."""
    epochs: int = 3
    learning_rate: float = 1e-3
    """Of the encoder: about 1e-3 for adapters, 2e-5 for all weights; linear decay after a warm-up of 6 %."""
    head_learning_rate: float = 2e-3
    weight_decay: float = 0.01
    category_weight: float = 0.3
    batch_tokens: int = 2_048
    batch_rows: int = 32
    longest: int = 320
    """Tokens of a row; the rest is cut off in training only."""
    seed: int = 0


@dataclass(frozen=True)
class TrainingRow:
    """`ids`: token ids with the special ones; `level` 0-5; `category`: index among the unsafe ones, -1 for score 0."""

    ids: list[int]
    level: int
    category: int
    weight: float


def batches_of(lengths: list[int], settings: Finetuning, generator: np.random.Generator) -> list[list[int]]:
    """Row indices of one epoch: shuffled, then sorted by length within blocks of 512, cut by rows and padded tokens."""
    order = generator.permutation(len(lengths)).tolist()
    batches: list[list[int]] = []
    for start in range(0, len(order), 512):
        current: list[int] = []
        for row in sorted(order[start : start + 512], key=lambda index: lengths[index]):
            if current and (
                len(current) == settings.batch_rows or (len(current) + 1) * lengths[row] > settings.batch_tokens
            ):
                batches.append(current)
                current = []
            current.append(row)
        batches.append(current)
    return [batches[index] for index in generator.permutation(len(batches))]


def warmup_then_linear(step: int, steps: int, warmup_share: float = 0.06) -> float:
    """Factor of the learning rate at `step` of `steps`: linear from 0 to 1, then linear to 0."""
    return min(1.0, (step + 1) / (warmup_share * steps)) * (1.0 - step / steps)


def multiclass_loss(logits_bl: "torch.Tensor", levels_b: "torch.Tensor") -> "torch.Tensor":
    """Cross-entropy of each row: [rows]."""
    import torch

    return torch.nn.functional.cross_entropy(logits_bl, levels_b, reduction="none")


def ordinal_loss(logits_bl: "torch.Tensor", levels_b: "torch.Tensor") -> "torch.Tensor":
    """Half the cross-entropy plus twice the mean of the binary cross-entropies of P(level >= k), k = 1..5: [rows].

    The second part is the ranked probability score with a logarithmic loss: a miss by three levels costs more than a miss
    by one, and the borders 1 and 3, at which recall counts, are learnt as such.
    """
    import torch

    probabilities_bl = torch.softmax(logits_bl, dim=1)
    at_least_bk = probabilities_bl.flip(1).cumsum(1).flip(1)[:, 1:].clamp(1e-6, 1 - 1e-6)
    reached_bk = (levels_b[:, None] >= torch.arange(1, logits_bl.shape[1])).float()
    binary_bk = torch.nn.functional.binary_cross_entropy(at_least_bk, reached_bk, reduction="none")
    return 0.5 * multiclass_loss(logits_bl, levels_b) + 2.0 * binary_bk.mean(1)


def _top_linear_modules(model: Any, layers: int) -> dict[str, "torch.nn.Linear"]:
    import torch

    numbered = {
        name: (int(found.group(1)), module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and (found := _LAYER_NUMBER.search(name))
    }
    if not numbered:
        raise DataError("the encoder has no numbered layers with linear modules: fine-tuning does not know it")
    first = max(number for number, _ in numbered.values()) + 1 - layers
    return {name: module for name, (number, module) in numbered.items() if number >= first}


def _add_adapters(model: Any, settings: Finetuning) -> dict[str, tuple["torch.Tensor", "torch.Tensor"]]:
    """Parametrises the weight of each top linear module as W + up @ down; returns (down, up) by module name."""
    import torch
    from torch.nn.utils import parametrize

    class LowRank(torch.nn.Module):
        def __init__(self, out_features: int, in_features: int) -> None:
            super().__init__()
            self.down = torch.nn.Parameter(torch.randn(settings.rank, in_features) / math.sqrt(in_features))
            self.up = torch.nn.Parameter(torch.zeros(out_features, settings.rank))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + 2.0 * self.up @ self.down  # the usual alpha of twice the rank

    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name, module in _top_linear_modules(model, settings.layers).items():
        adapter = LowRank(module.out_features, module.in_features)
        parametrize.register_parametrization(module, "weight", adapter)
        found[name] = (adapter.down, adapter.up)
    return found


class Finetuner:
    """Trains an encoder's `model` (changed in place) and two linear heads on rows."""

    def __init__(self, model: Any, pad_id: int, heads: dict[str, np.ndarray], settings: Finetuning) -> None:
        """`heads`: `level.weight` [6, size], `level.bias`, `category.weight` [18, size], `category.bias` to start from."""
        import torch

        torch.manual_seed(settings.seed)
        self.model, self.pad_id, self.settings = model, pad_id, settings
        model.requires_grad_(False)
        linear = _top_linear_modules(model, settings.layers) if settings.method == "full" else {}
        self._before = {module: (name, module.weight.detach().clone()) for name, module in linear.items()}
        self.adapters: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        if settings.method == "lora":
            self.adapters = _add_adapters(model, settings)
        else:
            for module in self._before:
                module.weight.requires_grad_(True)
        self.heads: dict[str, torch.Tensor] = {
            name: torch.nn.Parameter(torch.from_numpy(value).float() / (HEAD_SCALE if name.endswith("weight") else 1.0))
            for name, value in heads.items()
        }
        trained: list[torch.Tensor] = [parameter for pair in self.adapters.values() for parameter in pair]
        trained = trained or [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._parameters = [*trained, *self.heads.values()]
        self._rates = (settings.learning_rate, settings.head_learning_rate)
        groups: list[dict[str, Any]] = [{"params": trained}, {"params": list(self.heads.values())}]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)

    def train(self, rows: list[TrainingRow], report: Any = None) -> None:
        """All epochs. `report(text)` is called now and then. Raises DataError where the loss is no number."""
        generator = np.random.default_rng(self.settings.seed)
        lengths = [len(row.ids) for row in rows]
        plan = [batches_of(lengths, self.settings, generator) for _ in range(self.settings.epochs)]
        steps, step, total = sum(map(len, plan)), 0, 0.0
        self.model.train()
        for epoch, batches in enumerate(plan, start=1):
            for batch in batches:
                loss = self._step([rows[index] for index in batch], warmup_then_linear(step, steps))
                if not math.isfinite(loss):
                    raise DataError(f"fine-tuning: the loss is {loss} at step {step}; lower the learning rate")
                step, total = step + 1, 0.98 * total + 0.02 * loss
                if report and step % 25 == 0:
                    report(
                        f"epoch {epoch}/{self.settings.epochs}, step {step}/{steps}, loss {total / (1 - 0.98**step):.3f}"
                    )
        self.model.eval()

    def _step(self, rows: list[TrainingRow], factor: float) -> float:
        import torch

        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        loss = self._loss(rows)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        return float(loss.detach())

    def _loss(self, rows: list[TrainingRow]) -> "torch.Tensor":
        """Weighted cross-entropy of the levels, plus that of the categories over the unsafe rows."""
        import torch
        from torch.nn.functional import cross_entropy

        vectors_bd = self.pooled([row.ids for row in rows]) * HEAD_SCALE
        levels_b, weights_b = torch.tensor([row.level for row in rows]), torch.tensor([row.weight for row in rows])
        logits_bl = vectors_bd @ self.heads["level.weight"].T + self.heads["level.bias"]
        level_loss = multiclass_loss if self.settings.objective == "multiclass" else ordinal_loss
        loss = (level_loss(logits_bl, levels_b) * weights_b).mean()
        logits_bc = vectors_bd @ self.heads["category.weight"].T + self.heads["category.bias"]
        categories_b = torch.tensor([row.category for row in rows])
        category = cross_entropy(logits_bc, categories_b, ignore_index=-1, reduction="sum") / len(rows)
        return loss + self.settings.category_weight * category

    def pooled(self, ids: list[list[int]]) -> "torch.Tensor":
        """Mean over the tokens that token dropout keeps, of length 1: [rows, size], float32."""
        import torch

        longest = max(len(row) for row in ids)
        ids_bt = torch.tensor([row + [self.pad_id] * (longest - len(row)) for row in ids])
        mask_bt = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
        with torch.autocast("cpu", torch.bfloat16):
            hidden_btd = self.model(input_ids=ids_bt, attention_mask=mask_bt).last_hidden_state
        kept_bt = mask_bt * (torch.rand(mask_bt.shape) >= self.settings.token_dropout)
        kept_bt[:, 0] = 1  # at least one
        pooled_bd = (hidden_btd.float() * kept_bt[..., None]).sum(1) / kept_bt.sum(1, keepdim=True)
        return torch.nn.functional.normalize(pooled_bd, dim=1)

    def merge(self) -> None:
        """Makes the adapters part of the model's weights, for use after training."""
        from torch.nn.utils import parametrize

        for name in self.adapters:
            parametrize.remove_parametrizations(self.model.get_submodule(name), "weight", leave_parametrized=True)

    def trained_heads(self) -> dict[str, np.ndarray]:
        """The heads, for vectors of length 1, float32."""
        scales = {name: HEAD_SCALE if name.endswith("weight") else 1.0 for name in self.heads}
        return {name: (head.detach() * scales[name]).numpy() for name, head in self.heads.items()}

    def adapter_tensors(self) -> dict[str, np.ndarray]:
        """What an adapter file holds: float16 pairs, the factor in `up`; after full fine-tuning a dense update each."""
        tensors = {
            f"{name}.{DENSE}": (module.weight.detach() - weight).half().numpy()
            for module, (name, weight) in self._before.items()
        }
        for name, (down, up) in self.adapters.items():
            tensors[f"{name}.{DOWN}"] = down.detach().half().numpy()
            tensors[f"{name}.{UP}"] = (2.0 * up.detach()).half().numpy()
        return tensors
