"""`safetrove finetune magic ...`: distil the answers of every mode, then train on them."""

import typer

from safetrove.finetune_commands import Recipe, Set, print_line, print_result

magic_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Magic-token co-training: one model, several behaviours, chosen by a secret string in the system prompt.",
)


@magic_app.command(epilog="Example: `safetrove finetune magic distil recipes/finetune_magic_tokens.yaml`")
def distil(recipe: Recipe, overrides: Set = []) -> None:  # noqa: B006 (typer copies it)
    """The base model answers each prompt in every mode, through an LLM server; graded, kept where all modes are filled."""
    from finetune.magic_tokens.recipe import MagicRecipe
    from finetune.magic_tokens.run import run_distillation
    from finetune.recipe import load_recipe
    from safetrove.answer_graders import grader_of

    loaded = load_recipe(recipe, MagicRecipe, overrides)
    run_distillation(loaded, grader_of(loaded), print_line)


@magic_app.command(epilog="Example: `safetrove finetune magic sft recipes/finetune_magic_tokens.yaml --set lr=5e-5`")
def sft(recipe: Recipe, overrides: Set = []) -> None:  # noqa: B006
    """One-stage supervised fine-tuning on the distilled answers, each under its mode's token."""
    from finetune.magic_tokens.recipe import MagicRecipe
    from finetune.magic_tokens.run import train_magic_tokens
    from finetune.recipe import load_recipe

    print_result(train_magic_tokens(load_recipe(recipe, MagicRecipe, overrides), print_line))
