"""What a SafeSteer run does; from YAML, frozen (defaults: the released code of arXiv 2606.02530, where it has one)."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from finetune.recipe import TrainingRecipe


class DirectionSettings(BaseModel):
    """How the refusal direction is found. Files of prompts: JSON lines (`prompt`, optional `id`) or a JSON list."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    harmful_train: Path = Field(description="prompts that the model refuses; their number is drawn by id")
    harmful_validation: Path = Field(description="other ones, to score candidates with")
    harmless_train: Path = Field(description="prompts that the model answers")
    harmless_validation: Path = Field(description="other ones; the safety tokens are selected on them too")
    train_prompts: int = Field(128, ge=1, description="of each kind")
    validation_prompts: int = Field(32, ge=1, description="of each kind")
    refusal_openings: tuple[str, ...] = Field(
        ("I",), min_length=1, description="texts of one token each with which this model's refusals begin"
    )
    batch_size: int = Field(32, ge=1, description="prompts of one forward pass")
    coefficient: float = Field(
        1.0,
        gt=0,
        description="the teacher's hidden states get this much of the raw direction, and candidates are scored with it; published: "
        "1; a model that refuses little may need more",
    )


class TokenSettings(BaseModel):
    """How the safety tokens S are selected. Published: horizon 7 and floor 1e-8 for Qwen, 5 and 1e-7 for Llama-3."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["steering", "random"] = Field(
        "steering", description="random: as many tokens drawn by the seed, the control"
    )
    horizon: int = Field(7, ge=1, description="first positions of an answer that are compared")
    floor: float = Field(1e-8, ge=0, lt=1, description="least mean probability under the steered model")
    size: int = Field(50, ge=1, description="most tokens in S")
    votes_per_record: int = Field(200, ge=1, description="tokens that each compared position votes for")
    samples: int = Field(8, ge=1, description="answers to each harmless prompt")


class SafeSteerRecipe(TrainingRecipe):
    """`batch_size` counts answers: a multiple of `samples_per_prompt`. Unknown keys are errors."""

    prompts: Path = Field(description="harmful training prompts, as the direction's files; texts alone, no answers")
    max_prompts: int = Field(100, ge=1, description="only so many of them, drawn by their ids")
    system: str | None = Field(
        None, description="system message in every stage; none: what the chat template does itself"
    )
    held_out: tuple[Path, ...] = Field(
        (),
        description="files of evaluation prompts: prompts that overlap them are dropped before the draw, and counted",
    )
    direction: DirectionSettings
    tokens: TokenSettings = TokenSettings()
    loss: Literal["partial", "generalised", "bucketed", "full"] = Field(
        "partial",
        description="partial: published; generalised, bucketed: ours, never negative and zero at the teacher; full: ordinary "
        "distillation over the whole vocabulary, the baseline",
    )
    samples_per_prompt: int = Field(8, ge=1, description="answers to a prompt in its step")
    max_prompt_tokens: int = Field(512, ge=1, description="of a prompt with its template; a longer one is an error")
    max_new_tokens: int = Field(512, ge=1, description="of a sampled answer; a longer one is cut and still counts")
    sampling_batch: int = Field(32, ge=1, description="answers that are sampled at once")
    batch_size: int = Field(32, ge=1, description="answers of one update; a multiple of micro_batch_size")
    warmup: float = Field(0.1, ge=0, description="updates of linear warm-up; below 1: share of all updates")

    @model_validator(mode="after")
    def _steps_hold_whole_prompts(self) -> Self:
        if self.batch_size % self.samples_per_prompt:
            raise ValueError(
                f"batch_size {self.batch_size} (answers of an update) must be a multiple of samples_per_prompt "
                f"{self.samples_per_prompt}"
            )
        return self
