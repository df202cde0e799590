"""`python -m pretrain RECIPE [--set key=value ...]`: train, resume, or find that nothing is left to do.

On several ranks: `torchrun --nproc-per-node 8 -m pretrain RECIPE`.
"""

import argparse
import os
import sys

from pretrain.errors import PretrainError
from pretrain.loop import run
from pretrain.megatron_command import megatron_script
from pretrain.recipe import load_recipe, read_overrides


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong recipe or arguments, 143 saved and stopped by SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m pretrain", description=__doc__)
    parser.add_argument("recipe", help="YAML file, for example recipes/pretrain_demo.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key; the value is YAML: model.layers=4",
    )
    parser.add_argument(
        "--print-megatron", action="store_true", help="print Megatron-LM's commands for the same run, and train nothing"
    )
    given = parser.parse_args(arguments)
    try:
        overrides = read_overrides(given.set)
        if given.print_megatron:
            print(megatron_script(load_recipe(given.recipe, overrides)))
            return 0
        result = run(
            given.recipe,
            overrides,
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
