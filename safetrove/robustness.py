"""`safetrove evaluate robustness`: evaluate, fine-tune on benign data, evaluate again, compare prompt by prompt."""

from collections.abc import Sequence
from pathlib import Path

from classifiers.errors import RecipeError
from evaluation.comparison.compare import compare_results
from evaluation.recipe import load_recipe as load_evaluation_recipe
from evaluation.run import Progress, evaluate
from finetune.recipe import load_recipe as load_finetune_recipe
from finetune.sft_training import SftRecipe, run_sft
from pipeline.tagging import insert_tags

BENIGN_TUNING = Path(__file__).resolve().parents[1] / "recipes" / "finetune_benign_arithmetic.yaml"


def run_robustness(
    evaluation: Path | None,
    overrides: Sequence[str],
    tuning: Path,
    tuning_overrides: Sequence[str],
    output: Path,
    on_progress: Progress = lambda what, done, total: None,
) -> list[str]:
    """Writes OUTPUT/before/, tuned/, after/ and comparison/; the comparison's lines (`evaluation.comparison.compare`).

    The model is the evaluation recipe's; its decoder, suites and judges serve both times. What is done already is used
    again, as the single commands do. Raises RecipeError where the recipe asks a server: its model cannot be tuned here.
    """
    recipe = load_evaluation_recipe(evaluation, overrides)
    if recipe.server is not None:
        raise RecipeError(
            "robustness tunes the model itself: leave `server` out of the recipe and name the model's folder"
        )
    changes = {"model": recipe.model, "output": output / "tuned"}
    settings = load_finetune_recipe(tuning, SftRecipe, tuning_overrides).model_copy(update=changes)
    name = recipe.name or "model"
    evaluate(recipe.model_copy(update={"name": f"{name}, before"}), output / "before", on_progress=on_progress)
    run_sft(settings, insert_tags)
    model = str(output / "tuned" / "model")
    after = recipe.model_copy(update={"name": f"{name}, after benign tuning", "model": model})
    evaluate(after, output / "after", on_progress=on_progress)
    return compare_results([output / "before", output / "after"], output / "comparison")
