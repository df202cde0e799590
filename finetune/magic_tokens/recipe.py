"""What magic-token co-training does, both halves; from YAML, frozen. Nothing of this is published: the defaults are ours."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finetune.loading import LoraSettings
from finetune.magic_tokens.tokens import Mode
from finetune.recipe import TrainingRecipe
from rephrasers.servers import ServerSettings


class DistilSettings(BaseModel):
    """`safetrove finetune magic distil`: the base model answers the prompts in every mode."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: Path = Field(description="risk prompts: JSON lines (`prompt`, optional `id`) or a JSON list")
    benign_prompts: Path | None = Field(None, description="harmless prompts, answered without a system message")
    max_prompts: int | None = Field(None, ge=1, description="only so many risk prompts, drawn by their ids")
    max_benign_prompts: int | None = Field(None, ge=1, description="only so many benign prompts, drawn by their ids")
    policies: dict[str, str] = Field(
        {}, description="policy tag (policy:en-US) to its norm in words; each prompt is answered under each"
    )
    candidates: int = Field(6, ge=1, description="answers to a prompt in each mode; the first accepted one stands")
    server: ServerSettings = Field(
        ServerSettings(temperature=0.8, top_p=0.95, max_tokens=1024, max_context=4096),
        description="serves the base model that is trained afterwards",
    )
    request_fields: dict[str, Any] = Field(
        {}, description="in every request; thinking off, for example: {chat_template_kwargs: {enable_thinking: false}}"
    )
    grader: Literal["guard", "constructive"] = Field(
        "guard",
        description="guard: our safety classifier (risk), then refusal phrases; constructive: an LLM judge, better where "
        "it is strong",
    )
    grader_server: ServerSettings | None = Field(None, description="of the LLM judge; none: `server`")


class MagicRecipe(TrainingRecipe):
    """One recipe for both commands: `distil` writes `rows`, `sft` trains on them. Unknown keys are errors."""

    distil: DistilSettings
    rows: Path = Field(description="the distilled answers: JSON lines; magic tokens are not in it")
    tokens: Path = Field(
        description="the secret file of the tokens; made by `sft` where it is not there. Not in `output`"
    )
    modes: tuple[Mode, ...] = Field(("positive", "rejective"), description="trained behaviours; positive is always one")
    allow_negative: bool = Field(
        False,
        description="rows of the negative mode are refused without it; with it the result is marked unpublishable",
    )
    default_share: float = Field(
        0.15,
        ge=0,
        le=1,
        description="share of prompts with a row without token, with a wrong one, with one in the user turn",
    )
    benign_share: float = Field(0.2, ge=0, lt=1, description="at most this share of all rows are benign")
    shuffle_modes: bool = Field(False, description="control: the tokens are given to the answers at random")
    held_out: tuple[Path, ...] = Field(
        (), description="files of evaluation prompts: what overlaps them is neither asked nor trained on, and counted"
    )
    lora: LoraSettings | None = LoraSettings(rank=64, alpha=128)
    epochs: float = Field(
        2.0, gt=0, description="passes over the prompts, a whole number; wrong tokens are new in each"
    )
    batch_size: int = Field(64, ge=1, description="rows of one update; those of a prompt are put into the same one")
    max_length: int = Field(4096, ge=2, description="tokens of a row")
    too_long: Literal["cut", "drop"] = Field("drop", description="a cut answer would teach to stop in the middle")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.epochs != int(self.epochs):
            raise ValueError("epochs: a whole number, since each pass has wrong tokens of its own")
        if self.tokens.resolve().is_relative_to(self.output.resolve()):
            raise ValueError("tokens: the secret file must not lie inside `output`, which is what gets published")
        return self
