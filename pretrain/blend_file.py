"""The blend file of the pipeline: sources, their shards and weights, and the numbers of the tokenizer."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pretrain.errors import PretrainDataError


class BlendSource(BaseModel):
    """One source: `shards` are prefixes of `.bin/.idx` files, relative to the blend file's folder."""

    model_config = ConfigDict(frozen=True)

    name: str
    weight: float = Field(ge=0)
    tokens: int = Field(ge=0)
    documents: int = Field(ge=0)
    shards: list[str]


class Blend(BaseModel):
    """What the pipeline's `tokenise` stage wrote. `vocabulary_size` counts the tag; `tokenizer` is a folder's name.

    `tokenizer_sha256` is the hash of that folder's `tokenizer.json`; corpora made before it was recorded have none.
    """

    model_config = ConfigDict(frozen=True)

    tokenizer: str
    tokenizer_sha256: str | None = None
    vocabulary_size: int = Field(ge=1)
    tag_token: str
    tag_token_id: int = Field(ge=0)
    end_of_document_id: int = Field(ge=0)
    dtype: str
    sources: list[BlendSource] = Field(min_length=1)


def load_blend(path: Path) -> Blend:
    """The blend file at `path`. Raises `PretrainDataError` that names the file and each wrong key."""
    try:
        blend = Blend.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise PretrainDataError(
            f"there is no blend file at {path}; run the pipeline's tokenise stage, or set data: RUN/tokens/blend.json"
        ) from None
    except ValidationError as error:
        wrong = [f"  {'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}" for problem in error.errors()]
        raise PretrainDataError(f"{path} is no blend file:\n" + "\n".join(wrong)) from error
    for name in ("tag_token_id", "end_of_document_id"):
        if getattr(blend, name) >= blend.vocabulary_size:
            raise PretrainDataError(
                f"{path}: {name} {getattr(blend, name)} lies outside the vocabulary of {blend.vocabulary_size}"
            )
    _check_dtype(path, blend)
    return blend


def _check_dtype(path: Path, blend: Blend) -> None:
    try:
        largest = np.iinfo(np.dtype(blend.dtype)).max
    except (TypeError, ValueError):
        raise PretrainDataError(f"{path}: dtype {blend.dtype!r} holds no token ids; expected uint16 or int32") from None
    if blend.vocabulary_size - 1 > largest:
        raise PretrainDataError(
            f"{path}: dtype {blend.dtype} holds ids up to {largest}, too small for the vocabulary of "
            f"{blend.vocabulary_size}: larger ids were cut off; tokenise again (the pipeline then writes int32)"
        )


def source_weights(path: Path, blend: Blend, named: dict[str, float] | None) -> list[float]:
    """Weight of each source of the blend, in its order: the blend file's, or those that the recipe names (others get 0).

    Raises `PretrainDataError` for a name that the blend file does not have, and where no source has any weight.
    """
    if named is None:
        weights = [source.weight for source in blend.sources]
    else:
        known = [source.name for source in blend.sources]
        if unknown := [name for name in named if name not in known]:
            raise PretrainDataError(
                f"the recipe gives a weight to {unknown[0]!r}, but {path} has the sources {', '.join(known)}; correct the "
                "name, or tokenise that source"
            )
        weights = [named.get(name, 0.0) for name in known]
    if not any(weights):
        raise PretrainDataError(f"{path}: the weights of all sources are zero; give at least one a positive weight")
    return weights
