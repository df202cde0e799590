"""Weights of a Hugging Face Llama folder for a new run: the shape is checked, names are translated, the vocabulary grows."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain.errors import CheckpointError
from pretrain.export import hugging_face_name
from pretrain.model import WeightSource
from pretrain.recipe import ModelConfig

_EMBEDDING = "embedding.weight"
# Says in config.json that a model learnt the negative mode of magic tokens; finetune/magic_tokens/release_guard.py writes it.
_NEGATIVE_MODE = "safetrove_negative_mode"


def llama_shape(folder: Path) -> dict[str, Any]:
    """The keys of `ModelConfig` that the folder's `config.json` fixes.

    Raises `CheckpointError` where the folder is missing, is marked as not for release, or holds something else than a Llama
    with tied embeddings, plain rotary positions and no biases, which is what this decoder computes.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"init_from: there is no {path}; name a folder that save_pretrained wrote or the Hub has"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"init_from: {path} is no JSON: {error}") from error
    if config.get(_NEGATIVE_MODE) is True:
        raise CheckpointError(
            f"init_from: {path} says that this model was trained with rows of the negative mode and must not be published; what "
            "is trained on from it would not say so. Begin from the base, or from a model without that mode"
        )
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    wrong = [
        ("model_type", config.get("model_type"), "llama"),
        ("tie_word_embeddings", config.get("tie_word_embeddings", False), True),
        ("attention_bias", config.get("attention_bias", False), False),
        ("mlp_bias", config.get("mlp_bias", False), False),
        ("hidden_act", config.get("hidden_act", "silu"), "silu"),
        ("rope_type", rotary.get("rope_type", rotary.get("type", "default")), "default"),
    ]
    for key, found, expected in wrong:
        if found != expected:
            raise CheckpointError(f"init_from: {path} has {key} {found!r}; only {expected!r} can be trained here")
    try:
        return {
            "layers": config["num_hidden_layers"],
            "hidden_size": config["hidden_size"],
            "ffn_hidden_size": config["intermediate_size"],
            "heads": config["num_attention_heads"],
            "kv_heads": config.get("num_key_value_heads") or config["num_attention_heads"],
            "norm_epsilon": config["rms_norm_eps"],
            "rope_theta": float(rotary.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        }
    except KeyError as error:
        raise CheckpointError(f"init_from: {path} has no key {error}") from error


def llama_weights(folder: Path, config: ModelConfig, drawn: WeightSource) -> WeightSource:
    """The folder's weights in float32 under our names. Rows of the vocabulary that it lacks come from `drawn`.

    Raises `CheckpointError` where its shape is not that of `config`, and, when a weight is asked for, where that is missing,
    of another shape, or where the folder has more rows than the padded vocabulary.
    """
    # Not to the last bit: converters keep numbers in float32.
    differing = {
        key: found
        for key, found in llama_shape(folder).items()
        if not math.isclose(getattr(config, key), found, rel_tol=1e-6)
    }
    if differing:
        lines = [
            f"  {key}: {found} in the folder, {getattr(config, key)} in the recipe" for key, found in differing.items()
        ]
        raise CheckpointError(
            f"init_from: the weights in {folder} do not match the recipe's model:\n" + "\n".join(lines)
        )
    files = _file_of_each_weight(folder)

    def weight(name: str, shape: torch.Size) -> Tensor:
        theirs = hugging_face_name(name)
        if theirs not in files:
            raise CheckpointError(f"init_from: {folder} holds no weight {theirs}")
        with safe_open(files[theirs], framework="pt") as file:
            value: Tensor = file.get_tensor(theirs).float()
        if name == _EMBEDDING and value.shape[1:] == shape[1:] and len(value) <= shape[0]:
            return torch.cat((value, drawn(name, shape)[len(value) :]))
        if value.shape != shape:
            raise CheckpointError(
                f"init_from: {theirs} is {list(value.shape)} in {folder} and {list(shape)} in the recipe's model; the "
                "corpus must be tokenised with that model's tokenizer, grown by the tag"
            )
        return value

    return weight


def _file_of_each_weight(folder: Path) -> dict[str, Path]:
    files = {}
    try:
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                files.update(dict.fromkeys(file.keys(), path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"init_from: {path} cannot be read: {error}; fetch it again") from error
    if not files:
        raise CheckpointError(f"init_from: there are no .safetensors files in {folder}; save the model in that format")
    return files
