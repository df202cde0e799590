"""The tokenizer that is saved with the corpus: the model's own, with the harmfulness tag as one special token."""

import functools
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from classifiers.errors import ModelError, RecipeError
from classifiers.loading import is_missing_folder
from pipeline.atomic_files import file_sha256
from pipeline.tagging import HARMFULNESS_TAG
from rephrasers.embedded_writer import EMBEDDED_NAME, GGUF_SHA256, embedded_writer_folder


def tokenizer_revision(name: str) -> str:
    """What identifies a tokenizer: the embedded model's hash, a folder's tokenizer.json, or the Hub name as given.

    Raises ModelError for the path of a folder that is not there.
    """
    if name == EMBEDDED_NAME:
        return GGUF_SHA256
    if is_missing_folder(name):
        raise ModelError(f"tokenise.tokenizer: {name}: no such folder; put it back, or give another in the recipe")
    file = Path(name) / "tokenizer.json"
    return file_sha256(file) if file.is_file() else name


def save_corpus_tokenizer(name: str, end_of_document: str, folder: Path) -> dict[str, Any]:
    """Write the tokenizer with the tag into `folder`; return its hash, its vocabulary size and the ids of tag and document end.

    The tag is a new id behind the vocabulary (49,152 for SmolLM2). Raises RecipeError where the tokenizer has no such
    end token or is not a fast one, ModelError where it cannot be loaded.
    """
    from transformers import AutoTokenizer

    path = str(embedded_writer_folder()) if name == EMBEDDED_NAME else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(f"tokenise.tokenizer: {name} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise RecipeError(f"tokenise.tokenizer: {name} is no fast tokenizer; tags need character offsets")
    end_id = tokenizer.convert_tokens_to_ids(end_of_document)
    if end_id is None or tokenizer.convert_ids_to_tokens(end_id) != end_of_document:
        raise RecipeError(
            f"tokenise.end_of_document: {end_of_document!r} is no token of {name}; its end token is "
            f"{tokenizer.eos_token!r}"
        )
    if HARMFULNESS_TAG not in tokenizer.get_vocab():
        tokenizer.add_tokens([HARMFULNESS_TAG], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return {
        "tokenizer": "tokenizer",
        "tokenizer_sha256": file_sha256(folder / "tokenizer.json"),
        "vocabulary_size": len(tokenizer),
        "tag_token": HARMFULNESS_TAG,
        "tag_token_id": tokenizer.convert_tokens_to_ids(HARMFULNESS_TAG),
        "end_of_document": end_of_document,
        "end_of_document_id": end_id,
        "dtype": "uint16" if len(tokenizer) < 65_500 else "int32",
    }


@functools.lru_cache(maxsize=2)
def load_corpus_tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """The saved tokenizer, set so that special tokens spelled out in a text are ordinary pieces, and its numbers."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
