"""Direct preference optimisation (arXiv 2305.18290) by trl's trainer, a baseline: a refusal is preferred to an answer.

A pair is a row `{"prompt": TEXT or messages, "chosen": TEXT, "rejected": TEXT}`.
"""

import copy
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from classifiers.errors import DependencyError
from classifiers.loading import fixed_threads
from finetune.chat_data import checked_messages, prompt_ids, read_json_lines
from finetune.errors import DivergenceError, FinetuneDataError
from finetune.loading import add_lora, load_starting_model, starting_reference
from finetune.recipe import TrainingRecipe
from finetune.result_folder import save_model, write_result
from finetune.run_inputs import check_finished, compare_inputs, json_sha256, keep_inputs
from finetune.training import Report, begin, on_one_device, to_device, training_arguments


class DpoRecipe(TrainingRecipe):
    """`safetrove finetune dpo`."""

    pairs: Path = Field(description="JSON lines of preference pairs")
    max_length: int = Field(1024, ge=2, description="tokens of a prompt with its answer; a longer answer is cut")
    beta: float = Field(0.1, gt=0, description="strength of the pull to the starting model")


def read_pairs(path: Path) -> list[dict[str, Any]]:
    """Rows as trl takes them: prompt, chosen and rejected as lists of messages. Raises FinetuneDataError with the line."""
    return [pair_of_row(row, place) for place, row in read_json_lines(path)]


def pair_of_row(row: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The checked pair of one row."""
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    messages = checked_messages(prompt, f"{place}, prompt")
    if messages[-1]["role"] != "user":
        raise FinetuneDataError(
            f"{place}: the prompt ends with the {messages[-1]['role']}'s turn; it must be the user's"
        )
    answers = {}
    for key in ("chosen", "rejected"):
        text = row.get(key)
        if not isinstance(text, str) or not text.strip():
            raise FinetuneDataError(f"{place}: no `{key}` that is a text")
        answers[key] = text
    if answers["chosen"] == answers["rejected"]:
        raise FinetuneDataError(f"{place}: chosen and rejected are the same text; there is nothing to prefer")
    made = {key: [{"role": "assistant", "content": text}] for key, text in answers.items()}
    return {"prompt": list(messages), **made}


def run_dpo(recipe: DpoRecipe, report: Report = print) -> dict[str, Any]:
    """Trains by a recipe; the content of finetune.json."""
    finished = begin(recipe, "dpo")
    if finished is not None:
        check_finished(recipe.output, lambda: _inputs(recipe, read_pairs(recipe.pairs)))
        report(f"{recipe.output}: finished already, nothing to do")
        return finished
    pairs = read_pairs(recipe.pairs)
    with fixed_threads(recipe.threads):
        start = load_starting_model(recipe.model)
        inputs = _inputs(recipe, pairs)
        compare_inputs(recipe.output, inputs)
        for number, pair in enumerate(pairs, 1):
            if len(prompt_ids(pair["prompt"], start.tokenizer)) >= recipe.max_length:
                raise FinetuneDataError(f"pair {number}: its prompt fills max_length {recipe.max_length}; raise it")
        model = start.model if recipe.lora is None else add_lora(start.model, recipe.lora, recipe.seed)
        model = to_device(model)
        trainer = _trainer(recipe, model, start.tokenizer, pairs)
        keep_inputs(recipe.output, inputs)
        began = time.monotonic()
        trainer.train()
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
        if not all(math.isfinite(entry["loss"]) for entry in log):
            raise DivergenceError("the loss is not finite; lower lr or clip_grad")
        metrics = {"seconds": round(time.monotonic() - began, 3), "updates": trainer.state.global_step}
        metrics |= {f"last_{key}": log[-1][key] for key in ("loss", "rewards/accuracies") if key in log[-1]}
        if recipe.lora is not None and "ref" in model.peft_config:
            model.delete_adapter("ref")  # trl's copy of the adapter as it began; peft would save it beside ours
        save_model(model, start, recipe)
    data = {"sha256": inputs["pairs"], "pairs": len(pairs)}
    return write_result(recipe, start, {"method": "dpo", "data": data, "metrics": metrics, "log": log})


def _inputs(recipe: DpoRecipe, pairs: list[dict[str, Any]]) -> dict[str, str]:
    return {"pairs": json_sha256(pairs), "model": starting_reference(recipe.model).revision}


def _trainer(recipe: DpoRecipe, model: Any, tokenizer: Any, pairs: list[dict[str, Any]]) -> Any:
    try:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer
    except ImportError as error:
        raise DependencyError(
            "direct preference optimisation needs `trl`: pip install 'safetrove[finetune]'"
        ) from error
    from transformers.trainer_callback import PrinterCallback

    arguments = training_arguments(recipe) | {"save_strategy": "no"}
    arguments.pop("remove_unused_columns")
    trainer = DPOTrainer(
        model=model,
        # trl would load it by the name of the weights' folder: of a merged adapter or a named revision that is another model.
        ref_model=copy.deepcopy(model).requires_grad_(False) if recipe.lora is None else None,
        args=on_one_device(DPOConfig(**arguments, beta=recipe.beta, max_length=recipe.max_length)),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
