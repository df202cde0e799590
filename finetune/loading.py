"""The model that fine-tuning starts from, in fp32 master weights, and LoRA on it.

A name is what `rephrasers.models.resolve_model` takes, or a result folder of this room: its full model, else its base
with the adapter merged in (merging before training is safe: the merged weights are then the frozen starting model).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from classifiers.errors import DependencyError, ModelError
from finetune.errors import FinetuneModelError
from finetune.magic_tokens.release_guard import CONFIG_KEY, is_marked
from rephrasers.models import ModelReference, resolve_model

RESULT_FILE = "finetune.json"


class LoraSettings(BaseModel):
    """A low-rank adapter (peft). Defaults are those of the sheet on Safety Token Regularization."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(16, ge=1, description="rank r of the update B A")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the adapter's input while training")
    targets: tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="names of the linear layers that get an adapter",
    )


@dataclass(frozen=True)
class StartingModel:
    """`model`: a transformers causal LM in float32. `name`: what the recipe said."""

    name: str
    model: Any
    tokenizer: Any
    reference: ModelReference


def load_starting_model(name: str) -> StartingModel:
    """Model and tokenizer behind a recipe's name, float32, padding on the right, with a padding token.

    Raises ModelError for names and folders that hold no model, FinetuneModelError where the tokenizer has more tokens than
    the model has embeddings, DependencyError where peft is needed and missing. The configuration of a model that must not be
    released says so, and with it that of every model that is made from it.
    """
    folder = Path(name).expanduser()
    start = _load(folder, name)
    if is_marked(folder) is not None:
        setattr(start.model.config, CONFIG_KEY, True)
    return start


def starting_reference(name: str) -> ModelReference:
    """What identifies the model that `load_starting_model` loads; no weights are loaded. Raises ModelError as it does.

    Of a Hub name without a revision, call it behind the loading: only then does the cache say which commit that was.
    """
    folder = Path(name).expanduser()
    if not (folder / RESULT_FILE).is_file():
        return resolve_model(name)
    if _has_full_model(folder):
        return resolve_model(str(folder / "model"))
    return resolve_adapter(starting_reference(_base_of_adapter(folder)), folder / "adapter", name)


def load_starting_tokenizer(name: str) -> Any:
    """The tokenizer of `load_starting_model`, without the model. Raises ModelError."""
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    if (folder / RESULT_FILE).is_file() and not _has_full_model(folder):
        return load_starting_tokenizer(_base_of_adapter(folder))
    return starting_reference(name).load(AutoTokenizer)


def _has_full_model(folder: Path) -> bool:
    return (folder / "model" / "config.json").is_file()


def _load(folder: Path, name: str) -> StartingModel:
    if (folder / RESULT_FILE).is_file():
        if _has_full_model(folder):
            return _load_plain(str(folder / "model"), name)
        return _load_merged(folder, name)
    return _load_plain(name, name)


def _load_plain(source: str, name: str) -> StartingModel:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = resolve_model(source)
    tokenizer = reference.load(AutoTokenizer)
    model = reference.load(AutoModelForCausalLM).to(torch.float32)
    # every file of the result names the dtype that is saved
    model.config.dtype = torch.float32
    _prepare_tokenizer(tokenizer, model, reference.description)
    return StartingModel(name, model, tokenizer, reference)


def _load_merged(folder: Path, name: str) -> StartingModel:
    peft = import_peft()
    start = load_starting_model(_base_of_adapter(folder))
    adapter = folder / "adapter"
    merged = peft.PeftModel.from_pretrained(start.model, str(adapter)).merge_and_unload()
    # What peft writes down as the base of an adapter that is trained on this: not the base below, under which that adapter would
    # load and be another model. No model lies in this folder, so peft says that it finds none.
    merged.name_or_path = str(folder.resolve())
    reference = resolve_adapter(start.reference, adapter, name)
    return StartingModel(name, merged, start.tokenizer, reference)


def _base_of_adapter(folder: Path) -> str:
    """The name of the model that the adapter in a result folder belongs to."""
    try:
        base: str = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))["model"]["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / RESULT_FILE} does not name the model that was tuned: {error!r}") from error
    if not (folder / "adapter" / "adapter_config.json").is_file():
        raise ModelError(f"{folder} holds neither model/ nor adapter/: was its training finished?")
    return base


def resolve_adapter(base: ModelReference, adapter: Path, name: str) -> ModelReference:
    """What identifies a base with this adapter: both revisions."""
    from rephrasers.embedded_writer import file_sha256

    weights = file_sha256(adapter / "adapter_model.safetensors")[:16]
    return ModelReference(base.path_or_id, f"{base.revision}+{weights}", f"{base.description} with {Path(name).name}")


def _prepare_tokenizer(tokenizer: Any, model: Any, description: str) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise FinetuneModelError(
            f"{description}: the tokenizer has {len(tokenizer)} tokens, the model {rows} embeddings; give the folder the "
            "tokenizer that the model was trained with"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise FinetuneModelError(f"{description}: the tokenizer names neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"


def add_lora(model: Any, settings: LoraSettings, seed: int) -> Any:
    """The model with a fresh adapter (A drawn by `seed`, B zero: it computes what the model did).

    Raises FinetuneModelError where no layer has one of the names, and for a model that already carries an adapter.
    """
    import torch

    peft = import_peft()
    if isinstance(model, peft.PeftModel):
        raise FinetuneModelError("the model already carries an adapter: load it by the name of its result folder")
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    try:
        return peft.get_peft_model(model, config)
    except ValueError as error:
        raise FinetuneModelError(
            f"lora.targets {list(settings.targets)}: {type(model).__name__} has no layers of these names"
        ) from error


def import_peft() -> Any:
    """peft, or DependencyError with the line that installs it."""
    try:
        import peft
    except ImportError as error:
        raise DependencyError("fine-tuning needs `peft`: pip install 'safetrove[finetune]'") from error
    return peft
