"""Fine-tuning with Safety Token Regularization: recipe, objective, run."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from finetune.anchors import AnchorSettings, read_anchors
from finetune.chat_data import IGNORED
from finetune.mixture import Tagger
from finetune.positions import Positions, position_mask
from finetune.recipe import ChatRecipe
from finetune.reference import Reading
from finetune.reference_settings import ReferenceSettings, make_reference
from finetune.run_inputs import json_sha256
from finetune.safety_token_regularization import Reduction, Space, anchor_values, check_token_ids, drift_penalty
from finetune.safety_tokens import TokenSettings, find_safety_tokens, read_prompts
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
        description="compared indices: of the answers, every one that is no padding, the first_k of an answer, or, with "
        "anchors, none",
    )
    first_k: int = Field(5, ge=1, description="with positions first_k")
    tokens: TokenSettings = Field(TokenSettings(), description="the set S")
    anchors: AnchorSettings | None = Field(
        None, description="ours: refusals that come along and are compared, not learnt; none: no such rows"
    )

    @model_validator(mode="after")
    def _something_is_compared(self) -> Self:
        if self.positions == "none" and self.anchors is None:
            raise ValueError("positions none compares nothing: add anchors, or take positions response")
        return self


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
        """See `position_mask`; with anchors theirs too."""
        settings = self.settings
        mask = position_mask(batch["labels"], batch["attention_mask"], settings.positions, settings.first_k)
        if settings.anchors is None:
            return mask
        refusals = is_anchor(batch)[:, None]
        k = settings.anchors.first_k
        theirs = position_mask(
            batch["anchored"], batch["attention_mask"], "response" if k is None else "first_k", k or 1
        )
        return (mask & ~refusals) | theirs

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
        if settings.anchors is None:
            parts = {"str_penalty": self._penalty(values, reference_values, counts)}
            penalty = parts["str_penalty"]
        else:
            theirs = is_anchor(batch)[self.mask(batch).nonzero()[:, 0]]
            parts = {
                "str_penalty": self._penalty(values[~theirs], reference_values[~theirs], counts),
                "anchor_penalty": self._penalty(values[theirs], reference_values[theirs], counts),
            }
            penalty = parts["str_penalty"] + settings.anchors.weight * parts["anchor_penalty"]
        loss = cross_entropy if settings.weight == 0 else cross_entropy + settings.weight * penalty
        return loss, {"cross_entropy": cross_entropy, **parts}

    def _penalty(self, values: "Tensor", reference_values: "Tensor", counts: Any) -> "Tensor":
        """Over all compared positions of the update, refusals' too, so that `anchors.weight` says what a refusal counts."""
        settings = self.settings
        return drift_penalty(values, reference_values, settings.reduction, settings.one_sided, counts.positions)


def is_anchor(batch: Mapping[str, "Tensor"]) -> "Tensor":
    """Which rows are refusals that came along, bool [batch]."""
    return (batch["anchored"] != IGNORED).any(dim=1)


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
    if settings.anchors is not None:
        run.anchors = read_anchors(settings.anchors, run.start.tokenizer, run.recipe.max_length, run.recipe.seed)
        run.facts["anchors"] = {"sha256": run.anchors.sha256, "rows": len(run.anchors.rows)}
        run.report(f"{len(run.anchors.rows)} refusals come along with {settings.anchors.share:.0%} of the rows")
    identity = {
        "tokens": found["ids"],
        "space": settings.space,
        "positions": settings.positions + (f" {settings.first_k}" if settings.positions == "first_k" else ""),
        **({"anchors": [run.anchors.sha256, settings.anchors.first_k]} if run.anchors and settings.anchors else {}),
    }
    objective.reference = make_reference(run, settings, objective.reading, objective.mask, identity)
    return objective


def str_inputs(recipe: StrRecipe, tokenizer: Any) -> dict[str, str]:
    """Hashes of the refusals that come along and of the prompts that the tokens are mined with, where there are such."""
    settings, found = recipe.penalty, {}
    if settings.anchors is not None:
        found["anchors"] = read_anchors(settings.anchors, tokenizer, recipe.max_length, recipe.seed).sha256
    if settings.tokens.rule == "mined" and settings.tokens.harmful_prompts is not None:
        found["harmful_prompts"] = json_sha256(read_prompts(settings.tokens.harmful_prompts))
    return found


def run_str(recipe: StrRecipe, tagger: Tagger | None = None, report: Report = print) -> dict[str, Any]:
    """Trains by a recipe; the content of finetune.json. See `finetune.training.train_chats`."""
    return train_chats(recipe, "str", str_objective, None, tagger, report, str_inputs)
