"""`python -m benchmarks.tag_pretraining --data DATA --output OUTPUT`: the harmfulness-tag run, from raw texts to its table.

DATA holds `annotations/`, `web/`, `benchmarks/` and `refusal_direction/`. Everything that is done already is kept, so the same
command goes on after a stop. Under OUTPUT: `corpus/` (a pipeline run), `tokenizer/`, `tagged_tokens/` and
`control_tokens/` (a copy for each pass, with its own tags), `tagged/` and `control/` (checkpoints, metrics.jsonl), `model/` (the tagged model in Hugging Face format), `results.md`, `curves.png`.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.tag_pretraining.baseline import classify
from benchmarks.tag_pretraining.corpus import ROOT, build_corpus, corpus_recipe, overlapping_documents
from benchmarks.tag_pretraining.figure import draw
from benchmarks.tag_pretraining.results import last_measured, mean_probabilities, read_curve, table
from benchmarks.tag_pretraining.retagging import Retagging, tag_counts
from benchmarks.tag_pretraining.texts import prepare_texts
from classifiers.errors import DataError, ModelError, SafetroveError
from pipeline.atomic_files import write_text
from pretrain.errors import PretrainError
from pretrain.recipe import load_recipe
from pretrain.tag_probability import read_held_out

RECIPE: Final = ROOT / "recipes" / "pretrain_tag.yaml"
PAGES: Final = "pages-*.warc.gz"
# Copies of the corpus with tags of their own; more than the passes that are made over it.
PASSES: Final = 6
RUNS: Final = ("tagged", "control")


def overrides(output: Path, run: str) -> dict[str, str]:
    """What differs from `recipes/pretrain_tag.yaml` for `run`: tagged or control."""
    return {
        "data": str(output / f"{run}_tokens" / "blend.json"),
        "save": str(output / run),
        "export": str(output / ("model" if run == "tagged" else "control_model")),
        "tag_probability.data": str(output / "texts" / "held_out.jsonl"),
    }


def prepare(data: Path, output: Path, pages: str) -> None:
    """Texts, corpus, tokenizer, tokens, the control's tokens. Raises DataError where a prompt of a suite got in."""
    print("texts:", prepare_texts(data / "annotations", ROOT / "classifiers" / "data" / "texts", output / "texts"))
    recipe = corpus_recipe(data, output / "texts", output / "tokenizer", pages)
    build_corpus(recipe, output / "corpus", output / "tokenizer")
    if found := overlapping_documents(recipe, output / "corpus"):
        raise DataError(
            f"{output}: {len(found)} documents overlap a suite, the first one {found[0]}; start in a new folder"
        )
    print(f"no document shares {recipe.ingest.decontamination_words} words in a row with a suite or a held-out text")
    for name in RUNS:
        if not Path(overrides(output, name)["data"]).is_file():
            retagging = Retagging(output / "corpus", recipe.tag.rate, recipe.seed)
            places = retagging.tagged_places() if name == "tagged" else retagging.control_places()
            retagging.write(output / f"{name}_tokens", places, PASSES)
        tags, tokens = tag_counts(Path(overrides(output, name)["data"]))
        print(f"{name}: {tags} tags in {tokens} tokens")


def train(output: Path) -> None:
    """Both runs side by side, a process each; their lines go to OUTPUT/tagged.log and OUTPUT/control.log."""
    runs = {}
    for name in RUNS:
        settings = [item for pair in overrides(output, name).items() for item in ("--set", "=".join(pair))]
        with (output / f"{name}.log").open("a") as log:
            runs[name] = subprocess.Popen(
                [sys.executable, "-m", "pretrain", str(RECIPE), *settings],
                stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        print(f"training {name}: {output / name}.log")
    if failed := [name for name, process in runs.items() if process.wait()]:
        raise ModelError(
            f"the run {failed[0]} ended early; {output / failed[0]}.log says why. The same command goes on"
        )


def report(output: Path) -> str:
    """Write and return results.md; draw curves.png."""
    recipe = load_recipe(RECIPE, overrides(output, "tagged"))
    per_iteration = recipe.global_batch_size * recipe.seq_length
    columns = {f"{name} run": last_measured(output / name) for name in RUNS}
    columns["fastText on the same texts"] = classify(output / "corpus", read_held_out(output / "texts/held_out.jsonl"))
    lines = [line for score in (3, 1) for line in [*table(columns, score), ""]]
    for name in RUNS:
        means = mean_probabilities(columns[f"{name} run"])
        lines.append(f"{name} run: mean P(tag) {means['safe']:.5f} on safe, {means['unsafe']:.5f} on unsafe documents")
    draw({name: read_curve(output / name, per_iteration) for name in RUNS}, output / "curves.png")
    write_text(output / "results.md", "\n".join(lines) + "\n")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 wrong arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tag_pretraining",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/tag"))
    parser.add_argument("--pages", default=PAGES, help="which files of DATA/web are trained on (a name or a glob)")
    given = parser.parse_args(arguments)
    data, output = given.data.resolve(), given.output.resolve()
    try:
        prepare(data, output, given.pages)
        train(output)
        print(report(output))
    except (SafetroveError, PretrainError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
