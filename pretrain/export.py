"""The trained decoder as a Hugging Face Llama folder: config, safetensors and the tokenizer beside them."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pretrain.atomic_files import sync_file, sync_folder, temporary_name
from pretrain.blend_file import Blend
from pretrain.errors import PretrainDataError, PretrainRecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.model import Decoder

# Written into the folder, so that a rerun knows whether the export is of its own final iteration.
NOTE: Final = "pretrain.json"

_LAYER_NAMES: Final = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}
_OUTER_NAMES: Final = {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}


def hugging_face_name(name: str) -> str:
    """The name that transformers' Llama gives to our parameter `name`."""
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    _, layer, *inner, kind = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES['.'.join(inner)]}.{kind}"


def llama_config(decoder: "Decoder", blend: Blend, sequence_length: int) -> dict[str, Any]:
    """`config.json` of transformers' Llama for this decoder; the vocabulary is the padded one."""
    config = decoder.config
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": decoder.embedding.num_embeddings,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        # Both spellings: transformers 5 reads the second, most serving stacks the first.
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": sequence_length,
        "initializer_range": config.init_std,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": blend.end_of_document_id,
        "eos_token_id": blend.end_of_document_id,
        "dtype": "float32",
    }


def tokenizer_folder(blend_file: Path, blend: Blend) -> Path:
    """Where the blend's tokenizer lies. Raises `PretrainDataError` where it is missing."""
    folder = blend_file.parent / blend.tokenizer
    if not folder.is_dir():
        raise PretrainDataError(f"{blend_file} names the tokenizer folder {folder}, which is missing; export needs it")
    return folder


def check_destination(destination: Path) -> None:
    """Raise `PretrainRecipeError` where `destination` holds what no export wrote: an export would delete it."""
    if not destination.exists() or (destination / NOTE).is_file():
        return
    if destination.is_dir() and not any(destination.iterdir()):
        return
    raise PretrainRecipeError(
        f"export: {destination} holds no earlier export (there is no {NOTE} in it), and an export replaces the whole folder; "
        "name a new or an empty folder, or move away what is there"
    )


def whole_weights(decoder: "Decoder") -> "dict[str, Tensor]":
    """Every weight in one piece, on the CPU, by transformers' names. All ranks must ask together; all get the answer."""
    from torch.distributed.tensor import DTensor

    weights = {}
    for name, parameter in decoder.named_parameters():
        value = parameter.detach()
        weights[hugging_face_name(name)] = (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
    return weights


def export_model(
    decoder: "Decoder",
    weights: "dict[str, Tensor]",
    blend: Blend,
    tokenizer: Path,
    sequence_length: int,
    iteration: int,
    state: str,
    destination: Path,
) -> None:
    """Write the folder `destination`, which `AutoModelForCausalLM` and `AutoTokenizer` load; an older export is replaced.

    `weights` are the decoder's `whole_weights`; one rank writes them. `state` is the `state_sha256` of what they are from. The
    folder gets its name when it is whole. The tag is a special token of the tokenizer saved with it. Raises
    `PretrainRecipeError` as `check_destination` does.
    """
    from safetensors.torch import save_file

    check_destination(destination)
    destination = destination.resolve()  # where it is a link, what it points to is replaced
    temporary = temporary_name(destination)
    if temporary.exists():
        shutil.rmtree(temporary)
    shutil.copytree(tokenizer, temporary)
    save_file(weights, temporary / "model.safetensors", metadata={"format": "pt"})
    ends = {"bos_token_id": blend.end_of_document_id, "eos_token_id": blend.end_of_document_id}
    note = {"iteration": iteration, "state": state, "tag_token": blend.tag_token, "tag_token_id": blend.tag_token_id}
    for name, content in (
        ("config.json", llama_config(decoder, blend, sequence_length)),
        ("generation_config.json", ends),
        (NOTE, note),
    ):
        (temporary / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    # safetensors makes its file private; the weights are as readable as the files beside them.
    (temporary / "model.safetensors").chmod((temporary / NOTE).stat().st_mode)
    for path in temporary.iterdir():
        if path.is_file():
            sync_file(path)
    # Moved away before it is deleted: a kill must not leave half an export under the name.
    replaced = temporary.with_suffix(".old")
    if replaced.exists():  # of a process that was killed, with our number
        shutil.rmtree(replaced)
    if destination.exists():
        destination.rename(replaced)
    temporary.replace(destination)
    sync_folder(destination.parent)
    if replaced.exists():
        shutil.rmtree(replaced)
