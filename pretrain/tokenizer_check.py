"""Whether a corpus was made with the tokenizer that it names, and with that of the model which is trained on it."""

import hashlib
import json
from pathlib import Path

from pretrain.blend_file import Blend
from pretrain.errors import PretrainDataError


def check_corpus_tokenizer(blend_file: Path, blend: Blend) -> None:
    """Raises `PretrainDataError` where the tokenizer's folder beside the tokens is not the one that wrote them.

    A corpus without the folder passes: only export needs it.
    """
    file = blend_file.parent / blend.tokenizer / "tokenizer.json"
    if blend.tokenizer_sha256 is None or not file.is_file():
        return
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != blend.tokenizer_sha256:
        raise PretrainDataError(
            f"{file} has sha256 {found[:12]}..., {blend_file} was written with {blend.tokenizer_sha256[:12]}...: it is "
            "another tokenizer; put the corpus's own back, or tokenise again"
        )


def check_same_tokenizer(validation_file: Path, validation: Blend, training: Blend) -> None:
    """Raises `PretrainDataError` where the held-out texts were written with another tokenizer than the training data."""
    if validation.vocabulary_size != training.vocabulary_size:
        raise PretrainDataError(
            f"{validation_file} has a vocabulary of {validation.vocabulary_size}, the training data one of "
            f"{training.vocabulary_size}: tokenise both with the same tokenizer"
        )
    ours, theirs = validation.tokenizer_sha256, training.tokenizer_sha256
    if ours is not None and theirs is not None and ours != theirs:  # older corpora have none
        raise PretrainDataError(
            f"{validation_file} was written with a tokenizer of sha256 {ours[:12]}..., the training data with "
            f"{theirs[:12]}...: tokenise both with the same tokenizer"
        )


def check_model_tokenizer(model_tokenizer: Path, blend_file: Path, blend: Blend) -> None:
    """Raises `PretrainDataError` where the corpus gives another id than the model to any token of the model's tokenizer.

    `model_tokenizer` is a Hugging Face folder. The corpus may have tokens of its own, such as the tag.
    """
    model_ids = _token_ids(model_tokenizer / "tokenizer.json")
    corpus_ids = _token_ids(blend_file.parent / blend.tokenizer / "tokenizer.json")
    wrong = [token for token, number in model_ids.items() if corpus_ids.get(token) != number]
    if wrong:
        first = min(wrong, key=lambda token: model_ids[token])
        raise PretrainDataError(
            f"{blend_file} was written with another tokenizer than {model_tokenizer}: {len(wrong)} of {len(model_ids)} "
            f"tokens differ, first id {model_ids[first]} ({corpus_ids.get(first, 'none')} in the corpus); tokenise again "
            f"with tokenise.tokenizer: {model_tokenizer}"
        )


def _token_ids(file: Path) -> dict[str, int]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PretrainDataError(
            f"{file} is missing; it is needed to compare the tokenizers of model and corpus"
        ) from None
    vocabulary = content["model"]["vocab"]
    # Unigram models list [token, score] pairs in place of a table.
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {token: i for i, (token, _) in enumerate(vocabulary)}
    return ids | {token["content"]: token["id"] for token in content["added_tokens"]}
