"""The parts of a training recipe that say how its data is read: stages, where no loss is taken, what is held out."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DataStage(BaseModel):
    """One stage of a curriculum. Sources that `weights` does not name are not read in it; weights need not sum to 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: int | None = Field(
        None, ge=1, description="training tokens of the stage, cut to whole samples; only the last may leave it out"
    )
    weights: dict[str, float] = Field(description="share of each source, by its name in the blend file")

    @model_validator(mode="after")
    def _weights_are_shares(self) -> Self:
        check_weights(self.weights)
        return self


class LossMaskSettings(BaseModel):
    """Which labels carry no loss. All of them do by default, as in the paper."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tag: bool = Field(False, description="no loss on predicting the harmfulness tag")
    end_of_document: bool = Field(False, description="no loss on predicting the end of a document")
    after_end_of_document: bool = Field(
        False,
        description="no loss on predicting a document's first token from the end of another (Megatron: eod_mask_loss)",
    )

    @property
    def any(self) -> bool:
        """Whether there is anything to mask."""
        return self.tag or self.end_of_document or self.after_end_of_document


class TagProbabilitySettings(BaseModel):
    """Where and how often P(tag | context) is measured on held-out documents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(description="JSON lines of held-out documents: id, source, score (0 to 5), text")
    interval: int = Field(1000, ge=1, description="iterations between measurements; the last iteration has one too")
    unsafe_from: list[Annotated[int, Field(ge=1, le=5)]] = Field(
        [3, 1], min_length=1, description="scores from which a document counts as unsafe, each measured; 0 is safe"
    )
    least_documents: int = Field(
        8, ge=1, description="safe and unsafe documents that a source needs to be measured by itself"
    )


def check_weights(weights: dict[str, float]) -> None:
    """Raises `ValueError`, which pydantic shows beside the key, for negative weights and for weights that are all zero."""
    if wrong := [name for name, weight in weights.items() if not 0 <= weight < float("inf")]:
        raise ValueError(f"the weight of {wrong[0]} is {weights[wrong[0]]}; a weight is a finite number, at least 0")
    if not any(weights.values()):
        raise ValueError("all weights are zero; give at least one source a positive weight")
