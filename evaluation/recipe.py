"""What an evaluation does: model, suites, attacks, generation, judges; from YAML, frozen."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from classifiers.errors import RecipeError
from classifiers.overrides import put_overrides
from evaluation.generation.local_model import Form
from evaluation.generation.safe_decoder import SafeDecoding
from evaluation.generation.settings import GenerationSettings
from evaluation.judges.choice import JudgeChoice
from rephrasers.embedded_writer import EMBEDDED_NAME
from rephrasers.servers import ServerSettings


class EvaluationRecipe(BaseModel):
    """Unknown keys are errors. Paths are relative to where the command runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("", description="of the result in comparisons; empty: the model's")
    model: str = Field(EMBEDDED_NAME, description="a folder, a Hub id (org/name@revision), or the embedded model")
    server: ServerSettings | None = Field(None, description="answers come from this LLM server; `model` is not loaded")
    form: Form = Field("chat", description="chat: the model's chat template; completion: for base models")
    system: str | None = Field(None, description="system message of every chat")
    suites: tuple[str, ...] = Field(("own",), description="names (`safetrove evaluate suites`) or descriptions (.yaml)")
    suite_folder: Path | None = Field(None, description="folder with local copies of suites")
    limit: int | None = Field(None, ge=1, description="only the first so many prompts of each suite, for a trial")
    prefill_tokens: tuple[int, ...] = Field(
        (0,), min_length=1, description="each: answers that begin with so many tokens"
    )
    generation: GenerationSettings = GenerationSettings()
    decoder: SafeDecoding | None = Field(None, description="none: batched decoding, greedy or sampled")
    judges: tuple[JudgeChoice, ...] = Field(
        (JudgeChoice(name="refusal_strings"),), description="names, or name and server"
    )
    judge_server: ServerSettings | None = Field(None, description="of LLM judges that name no server of their own")

    @field_validator("prefill_tokens")
    @classmethod
    def _no_negative(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 0 or len(set(value)) < len(value):
            raise ValueError("different whole numbers, 0 for answers without a prefill")
        return value

    @field_validator("suites")
    @classmethod
    def _some_suites(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise ValueError("at least one suite, each once")
        return value

    @model_validator(mode="after")
    def _system_has_a_chat(self) -> "EvaluationRecipe":
        if self.form == "completion" and self.system is not None:
            raise ValueError("system: a text to continue has none; set `form: chat`, or leave `system` out")
        return self

    @field_validator("judges")
    @classmethod
    def _judges_once(cls, value: tuple[JudgeChoice, ...]) -> tuple[JudgeChoice, ...]:
        if len({choice.name for choice in value}) < len(value):
            raise ValueError("each judge once")
        return value


def load_recipe(path: Path | None, overrides: Sequence[str] = ()) -> EvaluationRecipe:
    """The recipe at `path` (None: the defaults), with `key=value` overrides put in; a dotted key reaches inside.

    Raises RecipeError that names the file and each wrong key.
    """
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise RecipeError(f"{path}: no such recipe") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} is no recipe: expected `key: value` lines at its top level")
    put_overrides(values, overrides, "generation.max_new_tokens=32")
    try:
        return EvaluationRecipe.model_validate(values)
    except ValidationError as error:
        wrong = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path or 'the evaluation'} is wrong:\n{wrong}") from error
