"""`safetrove finetune ...`: fine-tuning that keeps a model safe, and the baselines. One command a method, one recipe a run."""

from pathlib import Path
from typing import Annotated, Any

import typer

finetune_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Fine-tune by a recipe: plain, or so that the model stays safe.",
)

Recipe = Annotated[Path, typer.Argument(help="YAML file")]
Set = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="override a recipe key, dotted; repeatable")]


@finetune_app.command(epilog="Example: `safetrove finetune sft recipes/finetune_benign_arithmetic.yaml --set lr=2e-4`")
def sft(recipe: Recipe, overrides: Set = []) -> None:  # noqa: B006 (typer copies it)
    """Supervised fine-tuning on chats; `constrained` or `safe_lora` in the recipe make it one of these baselines."""
    from finetune.recipe import load_recipe
    from finetune.sft_training import SftRecipe, run_sft
    from pipeline.tagging import insert_tags

    print_result(run_sft(load_recipe(recipe, SftRecipe, overrides), insert_tags, print_line))


@finetune_app.command(
    "str", epilog="Example: `safetrove finetune str recipes/finetune_str.yaml --set penalty.weight=1`"
)
def str_command(recipe: Recipe, overrides: Set = []) -> None:  # noqa: B006
    """Safety Token Regularization: the logits of safety tokens are held near those of the starting model."""
    from finetune.recipe import load_recipe
    from finetune.str_training import StrRecipe, run_str
    from pipeline.tagging import insert_tags

    print_result(run_str(load_recipe(recipe, StrRecipe, overrides), insert_tags, print_line))


@finetune_app.command(epilog="Example: `safetrove finetune dpo recipes/finetune_dpo.yaml --set beta=0.3`")
def dpo(recipe: Recipe, overrides: Set = []) -> None:  # noqa: B006
    """Direct preference optimisation on pairs of answers, by trl; a baseline."""
    from finetune.dpo_training import DpoRecipe, run_dpo
    from finetune.recipe import load_recipe

    print_result(run_dpo(load_recipe(recipe, DpoRecipe, overrides), print_line))


@finetune_app.command(
    epilog="Example: `safetrove finetune safesteer recipes/finetune_safesteer.yaml --set loss=partial`"
)
def safesteer(recipe: Recipe, overrides: Set = []) -> None:  # noqa: B006
    """SafeSteer: the model is pulled to its own refusing self, on a few tokens of answers that it samples itself."""
    from finetune.recipe import load_recipe
    from finetune.safesteer.recipe import SafeSteerRecipe
    from finetune.safesteer.run import train_safesteer

    print_result(train_safesteer(load_recipe(recipe, SafeSteerRecipe, overrides), print_line))


def print_line(text: str) -> None:
    """One line at once, into a pipe too."""
    print(text, flush=True)


def print_result(result: dict[str, Any]) -> None:
    """Where a run's result is, and its measures."""
    shown = {key: value for key, value in result["metrics"].items() if value is not None}
    print(f"{result['recipe']['output']}: " + ", ".join(f"{key} {_short(value)}" for key, value in shown.items()))


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
