"""One model of the ladder: pretraining, instruction tuning, benign tuning, and an evaluation after each.

OUTPUT/rungs/<rung>/seed-<seed>/pretrain.yaml, pretrain/, base/      the recipe, its checkpoints, the model it exports
                               /instruction/, benign/               result folders of `safetrove finetune sft`
                               /base_evaluation/, ...               result folders of `safetrove evaluate run`

A step is done when its last file is there (base/pretrain.json with the chat template, finetune.json, evaluation.json); a step
that was stopped goes on where its own command would.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from classifiers.errors import ModelError
from evaluation.ladder.rungs import COLUMNS, RUNG_OF
from evaluation.results import RESULT_FILE
from finetune.loading import RESULT_FILE as TUNED_FILE
from pipeline.atomic_files import write_text
from pipeline.executors.die_with_parent import die_with_parent
from pipeline.run_folder import RunFolder
from pretrain.export import NOTE
from safetrove.ladder_recipe import LadderRecipe

ROOT = Path(__file__).resolve().parents[1]
CHAT_TEMPLATE = ROOT / "evaluation" / "ladder" / "chat_template.jinja"
Report = Callable[[str], None]


def installation() -> dict[str, str]:
    """The environment of a command of our own: it must find this installation's rooms, wherever it runs."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths}


def chain_folder(output: Path, rung: str, seed: int) -> Path:
    """The folder of one rung's model of one seed."""
    return output / "rungs" / rung / f"seed-{seed}"


def evaluation_folder(output: Path, rung: str, seed: int, column: str) -> Path:
    """The result folder of one evaluation."""
    return chain_folder(output, rung, seed) / f"{column}_evaluation"


def is_done(output: Path, rung: str, seed: int) -> bool:
    """Whether nothing is left to do for a rung's model of this seed."""
    return all((evaluation_folder(output, rung, seed, column) / RESULT_FILE).is_file() for column in COLUMNS)


def run_chain(recipe: LadderRecipe, output: Path, rung: str, seed: int, report: Report = print) -> None:
    """All steps of one rung and seed that are not done. The rung's blend file and the chats must be there.

    Raises ModelError where pretraining ends early, DataError where another process is at the same model.
    """
    folder = chain_folder(output, rung, seed)
    models = chain_folder(output, RUNG_OF[rung].decodes or rung, seed)
    with RunFolder(folder).locked():
        for column in COLUMNS:
            if (evaluation_folder(output, rung, seed, column) / RESULT_FILE).is_file():
                continue
            report(f"{RUNG_OF[rung].title}, seed {seed}: {column}")
            if models == folder:
                _make_model(recipe, output, rung, seed, column, report)
            _evaluate(recipe, output, rung, seed, column, models / column)


def _make_model(recipe: LadderRecipe, output: Path, rung: str, seed: int, column: str, report: Report) -> None:
    folder = chain_folder(output, rung, seed)
    if column == "base":
        _pretrain(recipe, folder, seed)
    elif not (folder / column / TUNED_FILE).is_file():
        _tune(recipe, output, rung, seed, column, report)


def _pretrain(recipe: LadderRecipe, folder: Path, seed: int) -> None:
    base, file = folder / "base", folder / "pretrain.yaml"
    settings = recipe.pretraining().model_copy(
        update={
            "data": folder.parent / "blend.json",
            "save": folder / "pretrain",
            "export": base,
            "seed": seed,
            "keep_latest": 1,
        }
    )
    if not (base / NOTE).is_file():
        write_text(file, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
        command = [*(recipe.launcher or (sys.executable,)), "-m", "safetrove", "pretrain", str(file)]
        code = subprocess.run(command, env=installation(), preexec_fn=die_with_parent).returncode
        if code:
            raise ModelError(
                f"{folder}: pretraining ended with exit code {code}; its messages stand above, or in log.txt. After mending "
                "the cause run the same command again: it goes on from the last checkpoint"
            )
    _give_chat_template(base)


def _give_chat_template(base: Path) -> None:
    """A corpus's tokenizer may come without a chat template, which tuning needs: it gets the ladder's then."""
    configured = json.loads((base / "tokenizer_config.json").read_text(encoding="utf-8"))
    if "chat_template" not in configured and not (base / "chat_template.jinja").is_file():
        write_text(base / "chat_template.jinja", CHAT_TEMPLATE.read_text(encoding="utf-8"))


def _tune(recipe: LadderRecipe, output: Path, rung: str, seed: int, column: str, report: Report) -> None:
    from finetune.sft_training import run_sft
    from pipeline.tagging import insert_tags

    step: Any = "instruction_tag" if (column, rung) == ("instruction", "tags") and recipe.instruction_tag else column
    folder = chain_folder(output, rung, seed)
    settings = recipe.tuning(step)
    data = [
        source.model_copy(update={"path": chats_file(output, source.name)}) if source.name in recipe.chats else source
        for source in settings.data
    ]
    before = folder / COLUMNS[COLUMNS.index(column) - 1]
    model = before / "model" if before.name == "instruction" else before
    changes = {"model": str(model), "output": folder / column, "seed": seed, "data": tuple(data)}
    run_sft(settings.model_copy(update=changes), insert_tags, report)


def chats_file(output: Path, name: str) -> Path:
    """Where the ladder keeps the chats of one data source."""
    return output / "chats" / f"{name}.jsonl"


def _evaluate(recipe: LadderRecipe, output: Path, rung: str, seed: int, column: str, model: Path) -> None:
    from evaluation.run import evaluate

    settings = recipe.evaluating().model_copy(
        update={
            "name": f"{RUNG_OF[rung].title}, {column}, seed {seed}",
            "model": str(model if column == "base" else model / "model"),
            "form": "completion" if column == "base" else "chat",
            "decoder": recipe.safe_beam if RUNG_OF[rung].decodes else None,
        }
    )
    evaluate(settings, evaluation_folder(output, rung, seed, column))
