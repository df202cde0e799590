"""Plain supervised fine-tuning, and two baselines on it: constrained on the first tokens, and projected afterwards."""

from typing import Any, Self

from pydantic import Field, model_validator

from finetune.constrained_sft import ConstrainedSettings, constrained_objective
from finetune.mixture import Tagger
from finetune.recipe import ChatRecipe
from finetune.safe_lora import SafeLoraSettings, project_adapters, safe_lora_inputs
from finetune.training import Report, train_chats


class SftRecipe(ChatRecipe):
    """`safetrove finetune sft`."""

    constrained: ConstrainedSettings | None = Field(None, description="constrained on the first tokens; none: plain")
    safe_lora: SafeLoraSettings | None = Field(None, description="adapters are projected after training; none: plain")

    @model_validator(mode="after")
    def _one_baseline(self) -> Self:
        if self.safe_lora is not None and (self.lora is None or self.constrained is not None):
            raise ValueError(
                "safe_lora projects LoRA adapters of plain fine-tuning: set lora, and leave out constrained"
            )
        return self


def run_sft(recipe: SftRecipe, tagger: Tagger | None = None, report: Report = print) -> dict[str, Any]:
    """Trains by a recipe; the content of finetune.json. See `finetune.training.train_chats`."""
    if recipe.constrained is not None:
        return train_chats(recipe, "constrained_sft", constrained_objective, None, tagger, report)
    if recipe.safe_lora is not None:
        return train_chats(recipe, "safe_lora", None, project_adapters, tagger, report, safe_lora_inputs)
    return train_chats(recipe, "sft", None, None, tagger, report)
