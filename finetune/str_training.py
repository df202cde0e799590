"""Fine-tuning with Safety Token Regularization: recipe, objective, run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from finetune.chat_data import IGNORED
from finetune.mixture import Tagger
from finetune.positions import Positions, position_mask
from finetune.recipe import ChatRecipe
from finetune.reference import Reading
from finetune.reference_settings import ReferenceSettings, make_reference
from finetune.safety_token_regularization import Reduction, Space, anchor_values, check_token_ids, drift_penalty
from finetune.safety_tokens import TokenSettings, find_safety_tokens
from finetune.training import Report, Run, train_chats

if TYPE_CHECKING:
    from torch import Tensor


class StrSettings(ReferenceSettings):
    """The penalty. Defaults: the form that is second-hand published, else ours (docs/paper-index.md)."""

    weight: float = Field(
        0.1, ge=0, description="lambda: the loss is cross-entropy + weight * penalty; 0: only measured"
    )
    space: Space = Field("raw", description="raw logits (second-hand published), or ours: logprob, centered, mass")
    reduction: Reduction = Field("mean", description="over the tokens of the set; sum is |S| times as strong")
    one_sided: bool = Field(False, description="only a fall of safety tokens counts")
    positions: Positions = Field(
        "response",
        description="anchored indices: of the answers, every one that is no padding, or the first_k of an answer",
    )
    first_k: int = Field(5, ge=1, description="with positions first_k")
    tokens: TokenSettings = Field(TokenSettings(), description="the set S")


class StrRecipe(ChatRecipe):
    """`safetrove finetune str`."""

    penalty: StrSettings = Field(StrSettings(), description="the penalty beside the cross-entropy")


class StrObjective:
    """Cross-entropy + weight * penalty, both over the counts of the whole update."""

    def __init__(self, settings: StrSettings, token_ids: list[int]) -> None:
        self.settings = settings
        self.reading = str_reading(settings.space, token_ids)
        self.reference: Any = None

    def mask(self, batch: Mapping[str, "Tensor"]) -> "Tensor":
        """See `position_mask`."""
        return position_mask(batch["labels"], batch["attention_mask"], self.settings.positions, self.settings.first_k)

    def loss(
        self,
        token_losses: "Tensor",
        values: "Tensor",
        reference_values: "Tensor",
        batch: Mapping[str, "Tensor"],
        counts: Any,
    ) -> tuple["Tensor", dict[str, "Tensor"]]:
        """See `finetune.trainer.Objective`."""
        settings = self.settings
        cross_entropy = token_losses.sum() / counts.labels
        if settings.weight == 0:
            values = values.detach()
        penalty = drift_penalty(values, reference_values, settings.reduction, settings.one_sided, counts.positions)
        loss = cross_entropy if settings.weight == 0 else cross_entropy + settings.weight * penalty
        return loss, {"cross_entropy": cross_entropy, "str_penalty": penalty}


def str_reading(space: Space, token_ids: list[int]) -> Reading:
    """What STR reads: for `raw` the set's columns alone."""
    import torch

    if space == "raw":
        return Reading(lambda columns, _: columns.float(), tuple(token_ids))
    return Reading(lambda logits, _: anchor_values(logits, torch.as_tensor(token_ids, device=logits.device), space))


def str_objective(run: Run) -> StrObjective:
    """Finds the token set, checks it against the vocabulary, opens or makes the reference; facts go into the result."""
    settings: StrSettings = run.recipe.penalty
    questions = [next(m["content"] for m in chat.messages if m["role"] == "user") for chat in run.rows.train_chats]
    answers = [[token for token in row.labels if token != IGNORED] for row in run.rows.train]
    found = find_safety_tokens(settings.tokens, run.model, run.start.tokenizer, questions, answers, run.recipe.seed)
    check_token_ids(found["ids"], run.start.model.get_output_embeddings().weight.shape[0])
    run.report(f"{len(found['ids'])} safety tokens: {' '.join(map(repr, found['tokens']))}")
    run.facts["safety_tokens"] = found
    objective = StrObjective(settings, found["ids"])
    identity = {
        "tokens": found["ids"],
        "space": settings.space,
        "positions": settings.positions + (f" {settings.first_k}" if settings.positions == "first_k" else ""),
    }
    objective.reference = make_reference(run, settings, objective.reading, objective.mask, identity)
    return objective


def run_str(recipe: StrRecipe, tagger: Tagger | None = None, report: Report = print) -> dict[str, Any]:
    """Trains by a recipe; the content of finetune.json. See `finetune.training.train_chats`."""
    return train_chats(recipe, "str", str_objective, None, tagger, report)
