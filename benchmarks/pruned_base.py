"""A second size of the embedded model: `python -m benchmarks.pruned_base --output FOLDER --drop 12 16 20 24 26 28`.

Leaves out decoder blocks. What is left predicts badly until it is trained a little:

    safetrove finetune sft recipes/finetune_pruned_base.yaml --set model=FOLDER

Its vocabulary and chat template are those of the whole model, so that one safety expert serves both (`benchmarks.ngsd_effect`).
"""

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from classifiers.errors import DataError, SafetroveError
from rephrasers.embedded_writer import EMBEDDED_NAME


def prune_blocks(model: Any, drop: Collection[int]) -> None:
    """Takes the decoder blocks with these numbers out of a Llama-like model, in place. Raises DataError for a number that is
    none, and where nothing would be left."""
    blocks = model.model.layers
    if wrong := sorted(set(drop) - set(range(len(blocks)))):
        raise DataError(f"there is no decoder block {wrong[0]}: the model has {len(blocks)}, counted from 0")
    kept = [block for number, block in enumerate(blocks) if number not in set(drop)]
    if not kept:
        raise DataError("all decoder blocks are left out: keep some")
    for number, block in enumerate(kept):
        block.self_attn.layer_idx = number
    model.model.layers = type(blocks)(kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [
            kind for number, kind in enumerate(model.config.layer_types) if number not in set(drop)
        ]


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED_NAME)
    parser.add_argument("--drop", type=int, nargs="+", required=True, help="numbers of decoder blocks, from 0")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args(arguments)
    from finetune.loading import load_starting_model

    try:
        start = load_starting_model(given.model)
        prune_blocks(start.model, given.drop)
    except SafetroveError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    start.model.save_pretrained(given.output)
    start.tokenizer.save_pretrained(given.output)
    print(json.dumps({"blocks": start.model.config.num_hidden_layers, "parameters": start.model.num_parameters()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
