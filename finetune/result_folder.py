"""What a run leaves: weights that get their name when they are whole, finetune.json, and a model card."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.errors import DivergenceError
from finetune.files import temporary_name, write_json, write_text
from finetune.loading import RESULT_FILE, StartingModel
from finetune.magic_tokens.release_guard import CONFIG_KEY, is_marked, mark_not_for_release
from finetune.recipe import TrainingRecipe

_TITLES = {
    "sft": "supervised fine-tuning",
    "constrained_sft": "constrained supervised fine-tuning (arXiv 2406.05946)",
    "safe_lora": "supervised fine-tuning with a Safe LoRA projection (arXiv 2405.16833)",
    "str": "STR-style fine-tuning (reconstructed from arXiv 2604.17210)",
    "dpo": "direct preference optimisation (arXiv 2305.18290)",
    "safesteer": "SafeSteer (arXiv 2606.02530)",
    "magic_tokens": "magic-token co-training (arXiv 2508.14904)",
}


def save_model(model: Any, start: StartingModel, recipe: TrainingRecipe) -> None:
    """Writes adapter/ and model/ as the recipe asks, with the tokenizer in both. A merged adapter is gone from `model`.

    In a folder that is marked as not for release, every model is marked. Raises DivergenceError, before anything is written, for
    weights that are no numbers: those of an update behind the last entry of the log show nowhere else.
    """
    _refuse_broken(model)
    if recipe.lora is None:
        _save_folder(recipe.output / "model", start.tokenizer, model.save_pretrained)
    else:
        _save_folder(recipe.output / "adapter", start.tokenizer, model.save_pretrained)
        if recipe.merge:
            merged = model.merge_and_unload()
            _save_folder(recipe.output / "model", start.tokenizer, merged.save_pretrained)
    if is_marked(recipe.output) is not None:
        mark_not_for_release(recipe.output)


def _refuse_broken(model: Any) -> None:
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise DivergenceError(
                f"{name} holds numbers that are not finite after the last update, so nothing is saved; lower lr or clip_grad"
            )


def _save_folder(folder: Path, tokenizer: Any, save: Callable[[str], Any]) -> None:
    temporary = temporary_name(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    save(str(temporary))
    # peft writes a card to fill in, with the folder of the base; it would be published in place of ours, which stands above.
    (temporary / "README.md").unlink(missing_ok=True)
    tokenizer.save_pretrained(str(temporary))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def write_result(recipe: TrainingRecipe, start: StartingModel, result: dict[str, Any]) -> dict[str, Any]:
    """Writes README.md, then finetune.json; returns the latter's content. `result`: method, data, metrics, log, ..."""
    import peft
    import torch
    import transformers

    whole = {
        "method": result["method"],
        "model": {
            "name": start.name,
            "description": start.reference.description,
            "revision": start.reference.revision,
        },
        "recipe": recipe.model_dump(mode="json"),
        **{key: value for key, value in result.items() if key != "method"},
        **({CONFIG_KEY: True} if is_marked(recipe.output) is not None else {}),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, peft)},
    }
    write_text(recipe.output / "README.md", model_card(whole))
    write_json(recipe.output / RESULT_FILE, whole)
    return whole


def model_card(result: dict[str, Any]) -> str:
    """The card in Markdown, with the Hub's header: data, method, numbers, how to load."""
    title = _TITLES.get(result["method"], result["method"])
    lora = result["recipe"]["lora"]
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [safetrove, safety" + (", lora, peft]" if lora else "]"),
        "---",
        "",
        f"# {result['model']['description']}, after {title}",
        "",
        f"Starting model: {result['model']['description']} at revision `{result['model']['revision']}`. "
        + (f"LoRA of rank {lora['rank']}, alpha {lora['alpha']:g}. " if lora else "All weights trained. ")
        + "Trained with safetrove; weights in float32.",
        "",
        "## Data",
        "",
        "| | |",
        "|---|---|",
        *[f"| {key.replace('_', ' ')} | {_shown(value)} |" for key, value in result["data"].items()],
        "",
        "## Method",
        "",
        "| setting | value |",
        "|---|---|",
        *[
            f"| {key} | {_shown(value)} |"
            for key, value in result["recipe"].items()
            if key not in ("output", "data", "model", "lora")
        ],
        "",
        "## Numbers",
        "",
        "| measure | value |",
        "|---|---|",
        *[f"| {key.replace('_', ' ')} | {_shown(value)} |" for key, value in result["metrics"].items()],
        "",
        "Losses are means in nats a token. They say nothing about safety: measure refusal and over-refusal, for example with "
        "`safetrove evaluate run`.",
        "",
        "## Loading",
        "",
        "`AutoModelForCausalLM.from_pretrained(\"model\")`" + (", or the adapter: `AutoPeftModelForCausalLM.from_pretrained"
        "(\"adapter\")`" if lora else "") + "; vLLM serves the folder `model`.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(inner)}" for key, inner in value.items())
    return str(value)
