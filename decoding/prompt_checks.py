"""What is checked before any token is generated: the tag, the vocabulary, the prompts, the context length."""

from typing import TYPE_CHECKING, Any

from classifiers.errors import DataError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

# How the pieces of common tokenizers spell white space: byte-level BPE (space, line feed, tab, return), SentencePiece.
_SPACE_SIGNS = ("\u0120", "\u010a", "\u0109", "\u010d", "\u2581")
_SPACE_BYTES = ("<0x20>", "<0x09>", "<0x0A>", "<0x0D>")


def find_tag_id(tokenizer: Any, tag: str) -> int:
    """The id of the harmfulness tag (`rephrasers.harmfulness_tag.HARMFULNESS_TAG`) in a tokenizer.

    Raises ModelError where the tokenizer has no such token: the model was not trained with tags.
    """
    found = tokenizer.get_vocab().get(tag)
    if found is None:
        raise ModelError(
            f"the tokenizer has no token {tag}: the model was not trained with the harmfulness tag, so there is no risk to "
            "read. Take a model that was pretrained on a tagged corpus, or another decoder (greedy, beam, ngsd)"
        )
    return int(found)


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Raises ModelError where the tokenizer has ids that the model has no row for."""
    rows, ids = vocabulary_size(model), max(tokenizer.get_vocab().values()) + 1
    if ids > rows:
        raise ModelError(
            f"the tokenizer has {ids} ids and the model {rows}: they do not belong together. Load the tokenizer from the "
            "model's own folder"
        )


def vocabulary_size(model: Any) -> int:
    """Rows of the model's input embedding."""
    return int(model.get_input_embeddings().weight.shape[0])


def check_tag_id(model: Any, tag_token_id: int) -> None:
    """Raises ModelError for an id that the model does not have."""
    rows = vocabulary_size(model)
    if not 0 <= tag_token_id < rows:
        raise ModelError(
            f"tag_token_id {tag_token_id}: the model has ids from 0 to {rows - 1}. Take the id of the tag in the tokenizer "
            "that was saved with this model"
        )


def checked_mask(input_ids: "Tensor", attention_mask: "Tensor | None") -> "Tensor":
    """The attention mask [batch, length], all ones where none was given.

    Raises DataError, naming the row, for an empty prompt, and for padding that is not on the left.
    """
    import torch

    if input_ids.ndim != 2:
        raise DataError(f"input_ids have {input_ids.ndim} dimensions; expected [batch, length]")
    mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask.to(input_ids)
    if mask.shape != input_ids.shape:
        raise DataError(
            f"attention_mask has shape {list(mask.shape)}; expected that of input_ids, {list(input_ids.shape)}"
        )
    counts = mask.sum(-1).tolist()
    if 0 in counts or input_ids.shape[1] == 0:
        row = counts.index(0)
        raise DataError(
            f"prompt {row} of the batch is empty: a model without a start token cannot continue an empty text. Leave it out, "
            "or begin it with the tokenizer's start token"
        )
    if bool((mask[:, 1:] < mask[:, :-1]).any()):
        row = int((mask[:, 1:] < mask[:, :-1]).any(-1).int().argmax())
        raise DataError(f'prompt {row} of the batch is padded on the right: set the tokenizer\'s padding_side="left"')
    return mask


def check_context(model: Any, prompt_tokens: int, new_tokens: int) -> None:
    """Raises DataError where the longest prompt and its answer exceed the model's positions."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and prompt_tokens + new_tokens > limit:
        raise DataError(
            f"a prompt of {prompt_tokens} tokens and {new_tokens} new ones exceed the {limit} positions of the model: "
            "shorten the prompt or lower max_new_tokens"
        )


def word_start_ids(tokenizer: Any) -> list[int]:
    """Ids of the ordinary tokens whose text begins with white space, in order; what `risk="boundary"` sums over."""
    special = set(tokenizer.all_special_ids)
    return sorted(
        i for piece, i in tokenizer.get_vocab().items() if i not in special and _begins_with_space(piece)
    )  # fmt: skip


def _begins_with_space(piece: str) -> bool:
    return piece.startswith(_SPACE_SIGNS) or piece in _SPACE_BYTES or piece[:1].isspace()
