"""`python -m pretrain RECIPE [--set key=value ...]`: train, resume, or find that nothing is left to do.

On several ranks: `torchrun --nproc-per-node 8 -m pretrain RECIPE`.
"""

import argparse
import os
import sys

from pretrain.errors import PretrainError, PretrainRecipeError
from pretrain.loop import run
from pretrain.megatron_command import megatron_script
from pretrain.recipe import load_recipe


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong recipe or arguments, 143 saved and stopped by SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m pretrain", description=__doc__)
    parser.add_argument("recipe", help="YAML file, for example recipes/pretrain_demo.yaml")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key: model.layers=4"
    )
    parser.add_argument(
        "--print-megatron", action="store_true", help="print Megatron-LM's commands for the same run, and train nothing"
    )
    given = parser.parse_args(arguments)
    try:
        pairs = [item.partition("=") for item in given.set]
        if wrong := [key for key, equals, _ in pairs if not equals]:
            raise PretrainRecipeError(f"--set {wrong[0]}: expected KEY=VALUE")
        if given.print_megatron:
            print(megatron_script(load_recipe(given.recipe, {key: value for key, _, value in pairs})))
            return 0
        result = run(
            given.recipe,
            {key: value for key, _, value in pairs},
            lambda line: print(line, flush=True),
            terminal=sys.stdout.isatty(),
        )
    except PretrainError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if os.environ.get("RANK", "0") != "0":
        return 0
    print(
        f"{result.iterations_run} iterations run, loss {result.first_loss} -> {result.last_loss}, {result.tokens} tokens in all"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
