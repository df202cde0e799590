"""`safetrove pretrain`, and what the demo says about its short training run."""

import os
import sys
from pathlib import Path

from pretrain.loop import PretrainResult, run
from pretrain.megatron_command import megatron_script
from pretrain.recipe import load_recipe, read_overrides


def run_pretraining(recipe: Path, overrides: list[str]) -> int:
    """Train by a recipe file with `key=value` overrides; 0 when the run has reached its last iteration."""
    result = run(recipe, read_overrides(overrides), lambda line: print(line, flush=True), terminal=sys.stdout.isatty())
    if os.environ.get("RANK", "0") == "0":  # under torchrun one process speaks for all
        print(describe(result))
    return 0


def print_megatron_script(recipe: Path, overrides: list[str]) -> int:
    """Print Megatron-LM's commands for the run of a recipe file with `key=value` overrides; 0."""
    print(megatron_script(load_recipe(recipe, read_overrides(overrides))))
    return 0


def describe(result: PretrainResult) -> str:
    """What a training run did, in one line."""
    if not result.iterations_run:
        return f"pretraining: nothing was left to do (checkpoint of iteration {result.resumed_from})"
    start = "" if result.resumed_from is None else f", resumed from iteration {result.resumed_from}"
    return (
        f"pretraining: {result.iterations_run} iterations{start}, loss {_loss(result.first_loss)} -> {_loss(result.last_loss)}, "
        f"{result.tokens:,} tokens in all"
    )


def _loss(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"
