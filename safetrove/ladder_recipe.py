"""The recipe of the ladder: which corpus, which rungs, and the recipes of its steps, which are those of the single commands."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from classifiers.errors import RecipeError
from evaluation.generation.safe_decoder import SafeDecoding
from evaluation.judges.choice import make_judge
from evaluation.ladder.rungs import RUNGS
from evaluation.recipe import EvaluationRecipe
from evaluation.recipe import load_recipe as load_evaluation_recipe
from evaluation.suites.description import check_names
from finetune.recipe import load_recipe as load_finetune_recipe
from finetune.sft_training import SftRecipe
from pipeline.atomic_files import file_sha256
from pipeline.manifest import flatten
from pretrain.recipe import PretrainRecipe
from pretrain.recipe import load_recipe as load_pretrain_recipe
from safetrove.own_texts import OwnTexts

SYNTHETIC = ("rephrased", "refusal", "moral")
# Keys of a step's recipe that the ladder sets itself, and those that change no result.
_OURS = {
    "pretrain": {"data", "save", "export", "seed", "keep_latest", "log_interval", "tensorboard"},
    "instruction": {"model", "output", "seed", "log_steps"},
    "instruction_tag": {"model", "output", "seed", "log_steps"},
    "benign": {"model", "output", "seed", "log_steps"},
    "evaluation": {"name", "model", "form", "decoder", "suite_folder"},
}


class StepRecipe(BaseModel):
    """A recipe of one of the single commands, with some of its keys changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: Path = Field(description="YAML file, relative to where the command runs")
    settings: dict[str, Any] = Field(
        {}, description="key -> value, as that command's --set; a dotted key reaches inside"
    )


class LadderRecipe(BaseModel):
    """Frozen, unknown keys are errors. Paths are relative to where the command runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: Path = Field(description="folder of a finished `safetrove run`, tokens included")
    rungs: tuple[str, ...] = Field(
        tuple(rung.name for rung in RUNGS),
        min_length=1,
        description="the ladder's rungs in their order; a rung that is left out leaves its source out of those above it",
    )
    seeds: tuple[int, ...] = Field(
        (0, 1), min_length=1, description="of weights, order of data, and tuning; may grow later"
    )
    shares: dict[str, float] = Field(
        {},
        description="share of a rung's tokens of each source that it has; the others divide the rest by their tokens",
    )
    texts: dict[str, tuple[OwnTexts, ...]] = Field(
        {}, description="texts of your own beside the corpus's verified synthetic ones; the table says how many"
    )
    chats: dict[str, tuple[OwnTexts, ...]] = Field(
        {}, description="chats of the instruction-tuning recipes, by the name of their data source"
    )
    pretrain: StepRecipe = Field(description="of `safetrove pretrain`: model, tokens and schedule of every rung")
    instruction: StepRecipe = Field(description="of `safetrove finetune sft`")
    instruction_tag: StepRecipe | None = Field(
        None, description="in its place for the rung `tags`; none: tuned as the other rungs"
    )
    benign: StepRecipe = Field(description="of `safetrove finetune sft`: benign data, on top of instruction tuning")
    evaluation: StepRecipe = Field(description="of `safetrove evaluate run`: suites, judges, lengths")
    safe_beam: SafeDecoding = Field(SafeDecoding(), description="how the rung `safe_beam` decodes")
    workers: int = Field(1, ge=1, description="rungs that are trained and evaluated side by side, a process each")
    launcher: tuple[str, ...] = Field(
        (), description="starts pretraining in place of Python, for example [torchrun, --nproc-per-node, '8']"
    )

    @model_validator(mode="after")
    def _rungs_make_a_ladder(self) -> Self:
        known = [rung.name for rung in RUNGS]
        if list(self.rungs) != [name for name in known if name in self.rungs]:
            raise ValueError(f"rungs: each once, in the order {', '.join(known)}")
        if "safe_beam" in self.rungs and "tags" not in self.rungs:
            raise ValueError("rungs: safe_beam decodes the models of tags; add tags")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each once")
        if wrong := [name for name in self.shares if name not in ("unsafe", "tagged", *SYNTHETIC)]:
            raise ValueError(f"shares: {wrong[0]} is none of unsafe, tagged, {', '.join(SYNTHETIC)}")
        if wrong := [name for name, share in self.shares.items() if not 0 < share < 1]:
            raise ValueError(f"shares: {wrong[0]} must be above 0 and below 1")
        if wrong := [name for name in self.texts if name not in SYNTHETIC]:
            raise ValueError(f"texts: {wrong[0]} is none of {', '.join(SYNTHETIC)}")
        return self

    def pretraining(self) -> PretrainRecipe:
        """The recipe of every rung's pretraining; data, folders and seed are set by the step."""
        unset = {"data": "unset/blend.json", "save": "unset/save", "export": "unset/export"}
        return load_pretrain_recipe(self.pretrain.recipe, {**self.pretrain.settings, **unset})

    def tuning(self, step: Literal["instruction", "instruction_tag", "benign"]) -> SftRecipe:
        """The recipe of a tuning step; model, output, seed and chats are set by the step. Raises FinetuneRecipeError."""
        section: StepRecipe = getattr(self, step)
        return load_finetune_recipe(section.recipe, SftRecipe, _overrides(section.settings))

    def evaluating(self) -> EvaluationRecipe:
        """The recipe of every evaluation; model, form and decoder are set by the step. Raises RecipeError."""
        return load_evaluation_recipe(self.evaluation.recipe, _overrides(self.evaluation.settings))


def load_ladder(path: Path, overrides: Sequence[str] = ()) -> LadderRecipe:
    """The recipe at `path` with `key=value` overrides; the recipes that it names are read too, so that whatever is wrong is
    said before anything is trained. Raises RecipeError, PretrainRecipeError."""
    recipe = load_finetune_recipe(path, LadderRecipe, overrides)
    recipe.pretraining()
    evaluation = recipe.evaluating()
    if evaluation.server is not None:
        raise RecipeError(
            f"{path}: the ladder evaluates the models that it trains: leave `server` out of the evaluation"
        )
    check_names(evaluation.suites)
    if not any(make_judge(choice, evaluation.judge_server).attack_labels for choice in evaluation.judges):
        raise RecipeError(
            f"{path}: the ladder shows attack success, of which the judges of its evaluation "
            f"({', '.join(choice.name for choice in evaluation.judges) or 'none'}) say nothing: add refusal_strings, "
            "safety_classifier, harmbench, wildguard, llama_guard or constructive to its `judges`"
        )
    if "safe_beam" in recipe.rungs:
        recipe.safe_beam.check(evaluation.generation)
    for step in ("instruction", "benign", *(["instruction_tag"] if recipe.instruction_tag else [])):
        recipe.tuning(step)  # type: ignore[arg-type]
    return recipe


def ladder_identity(recipe: LadderRecipe, blend: Path) -> dict[str, Any]:
    """All that a ladder's numbers depend on but its seeds, as dotted keys with plain values: what another recipe is
    compared with. `blend`: the corpus's blend file."""
    steps: dict[str, BaseModel] = {
        "pretrain": recipe.pretraining(),
        "instruction": recipe.tuning("instruction"),
        "benign": recipe.tuning("benign"),
        "evaluation": recipe.evaluating(),
    }
    if recipe.instruction_tag is not None:
        steps["instruction_tag"] = recipe.tuning("instruction_tag")
    plain = recipe.model_dump(mode="json", include={"rungs", "shares", "safe_beam"})
    plain |= {name: step.model_dump(mode="json", exclude=_OURS[name]) for name, step in steps.items()}
    for group in ("texts", "chats"):
        plain[group] = {name: [file.identity() for file in files] for name, files in getattr(recipe, group).items()}
    return flatten({"corpus": file_sha256(blend), **plain})


def _overrides(settings: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
