"""The recipe of a fine-tuning run: frozen, every key documented, unknown keys refused. Methods add their keys by inheriting."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from classifiers.overrides import put_overrides
from finetune.errors import FinetuneRecipeError
from finetune.loading import LoraSettings
from rephrasers.embedded_writer import EMBEDDED_NAME


class DataSource(BaseModel):
    """Chats of one kind: a file of JSON lines, or a builder of this room."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="how messages and the result file call it")
    path: Path | None = Field(None, description="JSON lines of chats (finetune/chat_data.py)")
    builder: Literal["arithmetic_problems"] | None = Field(
        None, description="in place of path: chats made on the spot, `rows` of them"
    )
    rows: int | None = Field(None, ge=1, description="only so many rows, drawn by their ids; none: all of them")
    share: float | None = Field(
        None, gt=0, lt=1, description="share of all rows of the run that come from here; none: the rows are used whole"
    )
    tag_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="the assistant's turns get the harmfulness tag before each word but the first with this probability, "
        "at least once; only for models whose tokenizer has the tag",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.path is None) == (self.builder is None):
            raise ValueError("give either path or builder")
        if self.builder is not None and self.rows is None:
            raise ValueError("a builder needs rows: how many to make")
        if self.rows is not None and self.share is not None:
            raise ValueError("give either rows or share")
        return self


class TrainingRecipe(BaseModel):
    """What every method here has. Relative paths are relative to the working directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        EMBEDDED_NAME, description="a folder, a Hub id (org/name@revision), the embedded model, or a result folder"
    )
    output: Path = Field(description="result folder: model/ or adapter/, finetune.json, README.md")
    lora: LoraSettings | None = Field(LoraSettings(), description="none (`null`): all weights are trained")
    merge: bool = Field(True, description="with LoRA: save the whole model with the adapter merged in, beside it")
    epochs: float = Field(1.0, gt=0, description="passes over the rows")
    max_steps: int | None = Field(None, ge=1, description="in place of epochs: updates")
    batch_size: int = Field(16, ge=1, description="rows of one update, over all ranks; a multiple of micro_batch_size")
    micro_batch_size: int = Field(4, ge=1, description="rows of one forward and backward pass of a rank")
    lr: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="after the warm-up")
    warmup: float = Field(0.03, ge=0, description="updates of linear warm-up; below 1: share of all updates")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="decay of AdamW's first moment")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="decay of AdamW's second moment")
    clip_grad: float = Field(1.0, gt=0, description="largest global norm of the gradient")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: computes in bf16 (autocast); the weights that are trained stay in fp32"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory"
    )
    log_steps: int = Field(1, ge=1, description="updates between entries of the log in finetune.json")
    save_steps: int | None = Field(
        None, ge=1, description="updates between checkpoints, from which the same recipe resumes; none: none is kept"
    )
    seed: int = Field(
        42, ge=0, lt=2**32, description="of the adapter's first weights, the order of rows, and all draws"
    )
    threads: int = Field(2, ge=1, description="CPU threads of torch; bits of the result may depend on it")

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of micro_batch_size {self.micro_batch_size}"
            )
        return self


class ChatRecipe(TrainingRecipe):
    """A method that learns from chats."""

    data: tuple[DataSource, ...] = Field(min_length=1, description="where the rows come from")
    max_length: int = Field(1024, ge=2, description="tokens of a row")
    too_long: Literal["cut", "drop"] = Field("cut", description="what becomes of longer rows; the result counts them")
    evaluation_rows: int = Field(
        0, ge=0, description="rows kept out of training, drawn by their ids; their loss is measured before and after"
    )
    packing: Literal[False] = Field(
        False,
        description="not supported: rows in one sequence would see each other, and kept reference values would not fit",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_packing(cls, settings: Any) -> Any:
        if isinstance(settings, dict) and settings.get("packing"):
            raise ValueError(
                "packing is not supported: packed rows change each other's contexts, so the frozen reference would be "
                "compared in another context; leave it out, rows are padded to the longest of their batch"
            )
        return settings

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        names = [source.name for source in self.data]
        if len(set(names)) < len(names):
            raise ValueError("data: each source needs a name of its own")
        shares = sum(source.share or 0 for source in self.data)
        if shares >= 1 or all(source.share is not None for source in self.data):
            raise ValueError(
                "data: shares must sum to less than 1, and one source at least has none (its rows are the rest)"
            )
        return self


Recipe = TypeVar("Recipe", bound=BaseModel)


def load_recipe(path: Path, kind: type[Recipe], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of class `kind` at `path`, with `key=value` overrides put in; a dotted key reaches inside, and a number
    picks an entry of a list: `data.0.rows=100`.

    Raises FinetuneRecipeError that names the file and each wrong key.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise FinetuneRecipeError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise FinetuneRecipeError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise FinetuneRecipeError(f"{path} is no recipe: expected `key: value` lines at its top level")
    put_overrides(values, overrides, "lr=1e-4", FinetuneRecipeError)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = "\n".join(f"  {_name(problem['loc'])}: {problem['msg']}" for problem in error.errors())
        raise FinetuneRecipeError(f"{path} is wrong:\n{wrong}") from error


def _name(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the keys together"
