"""Prompts as token ids: chats in the model's template, plain texts; what a user writes never becomes the harmfulness tag."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from classifiers.errors import DataError, ModelError

if TYPE_CHECKING:
    from torch import Tensor


def chat_text(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """A chat as the model reads it, up to where its answer begins. Raises ModelError without a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            "the model has no chat template: it is a base model, so let it continue the text (--completion), or put the "
            "chat_template.jinja that it was trained with into its folder"
        )
    text: str = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return text


def encode_chat(tokenizer: Any, text: str, tag: str) -> list[int]:
    """Ids of a rendered chat; a spelled-out `tag` becomes ordinary pieces, the template's own signs stay special."""
    first, *others = text.split(tag)
    ids: list[int] = tokenizer(first, add_special_tokens=False)["input_ids"]
    for part in others:
        ids += tokenizer(tag, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    return ids


def encode_completion(tokenizer: Any, text: str) -> list[int]:
    """Ids of a text to continue, behind the start token where the tokenizer adds one; nothing in it becomes special."""
    ids: list[int] = tokenizer(text, split_special_tokens=True)["input_ids"]
    return ids


def left_padded(encoded: Sequence[Sequence[int]], pad_id: int) -> "tuple[Tensor, Tensor]":
    """(ids, mask) [rows, longest], padded on the left. Raises DataError that names the first prompt without tokens."""
    import torch

    if empty := [index for index, ids in enumerate(encoded) if not ids]:
        raise DataError(f"prompt {empty[0]} is empty: leave it out, or give it a text")
    longest = max(map(len, encoded))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in encoded])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in encoded])
    return ids, mask
