"""`safetrove demo`: the whole way on the sample corpus, then a short pretraining run with a stop and a resume."""

from pathlib import Path

from classifiers.errors import DataError
from pipeline.recipe import load_recipe
from pretrain.checkpoint import latest_iteration
from pretrain.loop import run
from safetrove.pretraining import describe
from safetrove.running import run_recipe

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
STOP_AT = 40  # the first part of the training run ends here, the second resumes from its checkpoint


def run_demo(output: Path) -> int:
    """Run what is not done yet; returns the exit code."""
    recipe = load_recipe(RECIPES / "sample.yaml")
    code = run_recipe(recipe, output, [], False)
    if code:
        return code
    _say_what_the_writer_is()
    overrides = {
        "data": str(output / "tokens" / "blend.json"),
        "save": str(output / "pretrain"),
        "export": str(output / "model"),
    }
    if latest_iteration(output / "pretrain") is None:
        print(f"\nshort pretraining run on the tokens, stopped after {STOP_AT} iterations:")
        print(describe(run(RECIPES / "pretrain_demo.yaml", {**overrides, "exit_interval": STOP_AT}, _print)))
        print("\nthe same run again, resumed from its checkpoint:")
    result = run(RECIPES / "pretrain_demo.yaml", overrides, _print)
    print(describe(result))
    if result.iterations_run and not (result.last_loss or 0) < (result.first_loss or 0):
        raise DataError(f"{output / 'pretrain'}: the loss did not fall; remove the folder and run the demo again")
    card = output / "report" / "card"
    print(f"\nreport card: {card}.html  {card}.png  {card}.md  {card}.json")
    print(f"tokens:      {output / 'tokens' / 'blend.json'}")
    print(f"model:       {output / 'model'}")
    return 0


def _print(line: str) -> None:
    print(line, flush=True)


def _say_what_the_writer_is() -> None:
    print(
        "\nThe writer of this demo is SmolLM2-135M-Instruct, dequantised Q4_1: a very small model. Most of its texts fail\n"
        "verification and are dropped (the reasons stand in the verify-... rows above and on the card). That is the\n"
        "demo working: with any writer, only what passes its checks reaches the corpus."
    )
