"""One fine-tuning run: data, model, trainer, result folder. The methods hand in what is theirs.

OUTPUT/recipe.yaml     frozen when the run begins; another recipe is refused here
OUTPUT/inputs.json     hashes of rows and model; others are refused here (finetune/run_inputs.py)
OUTPUT/adapter/        with LoRA: loads with peft
OUTPUT/model/          full model (with LoRA: merged), loads with AutoModelForCausalLM and vLLM
OUTPUT/finetune.json   data, method, numbers, log; written last, so it says that the run is whole
OUTPUT/README.md       the model card
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from classifiers.loading import fixed_threads
from finetune.anchors import Anchors
from finetune.chat_data import TokenisedChat
from finetune.errors import FinetuneRecipeError, ResultFolderError
from finetune.files import write_text
from finetune.loading import (
    RESULT_FILE,
    StartingModel,
    add_lora,
    load_starting_model,
    load_starting_tokenizer,
    starting_reference,
)
from finetune.magic_tokens.release_guard import is_marked, mark_not_for_release
from finetune.mixture import Tagger, TrainingRows, build_rows
from finetune.recipe import ChatRecipe, TrainingRecipe
from finetune.result_folder import save_model, write_result
from finetune.run_inputs import check_finished, compare_inputs, keep_inputs

Report = Callable[[str], None]


@dataclass
class Run:
    """What a method finds before training. `model` carries the adapter, if any; `facts` go into finetune.json; `anchors`: rows
    that come along and are not learnt, if the method has such."""

    recipe: Any
    start: StartingModel
    model: Any
    rows: TrainingRows
    report: Report
    facts: dict[str, Any] = field(default_factory=dict)
    anchors: Anchors | None = None


# Makes the method's objective (None: cross-entropy alone), and may add to `run.facts`.
Objectives = Callable[[Run], Any]
# What is done to the trained model before it is saved.
Finish = Callable[[Run], None]
# (recipe, tokenizer) -> hashes of what the method reads beside rows and model, by name.
MoreInputs = Callable[[Any, Any], dict[str, str]]


def train_chats(
    recipe: ChatRecipe,
    method: str,
    objective: Objectives | None = None,
    finish: Finish | None = None,
    tagger: Tagger | None = None,
    report: Report = print,
    more_inputs: MoreInputs | None = None,
) -> dict[str, Any]:
    """Trains by a recipe and writes the result folder; the content of finetune.json. A finished run is not done again.

    Raises what is wrong with recipe, data and model before training starts, ResultFolderError for a folder whose run was made
    of others; DivergenceError in training.
    """
    finished = begin(recipe, method)
    if finished is not None:
        check_finished(recipe.output, lambda: _read_inputs(recipe, tagger, more_inputs))
        report(f"{recipe.output}: finished already, nothing to do")
        return finished
    with fixed_threads(recipe.threads):
        start = load_starting_model(recipe.model)
        rows = build_rows(recipe, start.tokenizer, tagger)
        inputs = _inputs(recipe, start.tokenizer, rows, more_inputs)
        compare_inputs(recipe.output, inputs)
        report(f"{len(rows.train)} rows, {rows.facts['supervised_tokens']} of {rows.facts['tokens']} tokens are learnt")
        model = start.model if recipe.lora is None else add_lora(start.model, recipe.lora, recipe.seed)
        run = Run(recipe, start, to_device(model), rows, report)
        made = None if objective is None else objective(run)
        keep_inputs(recipe.output, inputs)
        metrics, log = _train(run, made, method)
        if finish is not None:
            finish(run)
            metrics["held_out_loss_after"] = _held_out_loss(run)
        save_model(run.model, start, recipe)
    result = {"method": method, "data": rows.facts, **run.facts, "metrics": metrics, "log": log}
    return write_result(recipe, start, result)


def _inputs(recipe: ChatRecipe, tokenizer: Any, rows: TrainingRows, more_inputs: MoreInputs | None) -> dict[str, str]:
    return {
        "rows": rows.facts["sha256"],
        "held_out_rows": rows.facts["held_out_sha256"],
        "model": starting_reference(recipe.model).revision,
        **({} if more_inputs is None else more_inputs(recipe, tokenizer)),
    }


def _read_inputs(recipe: ChatRecipe, tagger: Tagger | None, more_inputs: MoreInputs | None) -> dict[str, str]:
    """Without loading weights."""
    tokenizer = load_starting_tokenizer(recipe.model)
    return _inputs(recipe, tokenizer, build_rows(recipe, tokenizer, tagger), more_inputs)


def begin(recipe: TrainingRecipe, method: str) -> dict[str, Any] | None:
    """Freezes the recipe in the result folder; the result, where it is there. Raises ResultFolderError for another recipe,
    FinetuneRecipeError under a launcher of several processes.

    A run from a model that must not be released is marked so itself, before its first weight is written.
    """
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise FinetuneRecipeError(
            f"WORLD_SIZE is {processes}: a run is one process, whose files several would write at once; start it without torchrun"
        )
    wanted = json.loads(json.dumps({"method": method, **recipe.model_dump(mode="json")}))
    frozen = recipe.output / "recipe.yaml"
    if frozen.is_file():
        kept = yaml.safe_load(frozen.read_text(encoding="utf-8"))
        if different := sorted(key for key in kept.keys() | wanted.keys() if kept.get(key) != wanted.get(key)):
            raise ResultFolderError(
                f"{recipe.output} holds a run of another recipe ({', '.join(different)} differ): name another output, or "
                "delete it"
            )
    write_text(frozen, yaml.safe_dump(wanted, sort_keys=False))
    if is_marked(Path(recipe.model).expanduser()) is not None:
        mark_not_for_release(recipe.output)
    result = recipe.output / RESULT_FILE
    return json.loads(result.read_text(encoding="utf-8")) if result.is_file() else None


def to_device(model: Any) -> Any:
    """On the accelerator where there is one."""
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def training_arguments(recipe: TrainingRecipe) -> dict[str, Any]:
    """A recipe's settings as keyword arguments of transformers.TrainingArguments. Raises FinetuneRecipeError where
    micro-batches do not make up the batch."""
    import torch

    if recipe.batch_size % recipe.micro_batch_size:
        raise FinetuneRecipeError(
            f"batch_size {recipe.batch_size} must be a multiple of micro_batch_size {recipe.micro_batch_size}"
        )
    return {
        "output_dir": str(recipe.output / "checkpoints"),
        "per_device_train_batch_size": recipe.micro_batch_size,
        "gradient_accumulation_steps": recipe.batch_size // recipe.micro_batch_size,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.max_steps or -1,
        "learning_rate": recipe.lr,
        "lr_scheduler_type": recipe.schedule,
        "warmup_steps": recipe.warmup,
        "weight_decay": recipe.weight_decay,
        "adam_beta1": recipe.adam_beta1,
        "adam_beta2": recipe.adam_beta2,
        "max_grad_norm": recipe.clip_grad,
        "bf16": recipe.precision == "bf16",
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "logging_steps": recipe.log_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "no" if recipe.save_steps is None else "steps",
        "save_steps": recipe.save_steps or 500,
        "save_total_limit": 2,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
    }


def on_one_device(arguments: Any) -> Any:
    """TrainingArguments that use the first of several accelerators. transformers would take all: a micro-batch for each, which
    makes the batch larger than the recipe's, and copies of the model for which our hooks and losses are not made."""
    _ = arguments.device  # counts the accelerators
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def features(rows: Sequence[TokenisedChat]) -> list[dict[str, Any]]:
    """Rows as the collator takes them; `row` is the row's number, for kept reference values."""
    return [{"input_ids": row.input_ids, "labels": row.labels, "row": number} for number, row in enumerate(rows)]


def collator(tokenizer: Any) -> Any:
    """Pads ids and labels (-100) on the right to the longest row of a batch."""
    from transformers import DataCollatorForSeq2Seq

    return DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)


def batches(
    rows: Sequence[TokenisedChat], tokenizer: Any, size: int, device: Any, anchors: Anchors | None = None
) -> Iterable[Mapping[str, Any]]:
    """Batches of rows of like length, each row once, and each of `anchors`."""
    collate, every = collator(tokenizer), features(rows)
    if anchors is not None:
        collate, every = anchors.collator(collate, len(rows)), [*every, *anchors.own_features(len(rows))]
    ordered = sorted(every, key=lambda feature: len(feature["input_ids"]))
    for first in range(0, len(ordered), size):
        yield {name: value.to(device) for name, value in collate(ordered[first : first + size]).items()}


def _train(run: Run, objective: Any, method: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    from transformers import TrainingArguments

    from finetune.trainer import SupervisedTrainer
    from finetune.trainer_run import run_trainer

    before = _held_out_loss(run)
    rows, collate = run.rows.train, collator(run.start.tokenizer)
    trainer = SupervisedTrainer(
        model=run.model,
        args=on_one_device(TrainingArguments(**training_arguments(run.recipe))),
        train_dataset=features(rows) if run.anchors is None else run.anchors.features(rows),
        data_collator=collate if run.anchors is None else run.anchors.collator(collate, len(rows)),
        objective=objective,
    )
    metrics, log = run_trainer(trainer, method, run.report)
    return {"held_out_loss_before": before, **metrics, "held_out_loss_after": _held_out_loss(run)}, log


def _held_out_loss(run: Run) -> float | None:
    """Mean cross-entropy of the held-out rows in nats a token; None where nothing is held out."""
    from finetune.trainer import mean_cross_entropy

    if not run.rows.held_out:
        return None
    size = run.recipe.micro_batch_size
    return mean_cross_entropy(run.model, batches(run.rows.held_out, run.start.tokenizer, size, run.model.device))
