"""Anchor rows of Safety Token Regularization (ours): refusals that come along with the rows that are learnt.

Their logits are compared with those of the starting model like all others; nothing is learnt from them. So the penalty looks
at the place that is to stay as it is (the answer to a harmful request), and leaves the rows that are learnt alone where
`penalty.positions` is `none`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from finetune.chat_data import IGNORED, TokenisedChat, data_sha256, read_chats, tokenise_chats
from finetune.mixture import drawn
from rephrasers.keyed_draws import keyed_uniforms

if TYPE_CHECKING:
    from torch import Tensor


class AnchorSettings(BaseModel):
    """Which refusals come along, how often, how much of them is compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(description="JSON lines of chats that end with a refusal (prompts of no evaluation)")
    rows: int | None = Field(None, ge=1, description="only so many of them, drawn by their ids; none: all")
    share: float = Field(
        0.25, gt=0, le=1, description="of the rows that are learnt, each of which brings one refusal along"
    )
    weight: float = Field(1.0, gt=0, description="of the squares at refusals, beside those at the rows that are learnt")
    first_k: int | None = Field(5, ge=1, description="tokens of a refusal that are compared; none: all of it")


@dataclass(frozen=True)
class Anchors:
    """The tokenised refusals of a run."""

    rows: list[TokenisedChat]
    share: float
    seed: int

    @property
    def sha256(self) -> str:
        """Of the rows."""
        return data_sha256(self.rows)

    def features(self, learnt: Sequence[TokenisedChat]) -> list[dict[str, Any]]:
        """As `finetune.training.features`, with the number of the refusal that comes along, -1 for none: drawn by (seed, the
        row's id), so that it does not depend on how rows are batched."""
        found = []
        for number, row in enumerate(learnt):
            coin, which = keyed_uniforms(self.seed, "anchors", row.id, 2)
            anchor = int(which * len(self.rows)) if coin < self.share else -1
            found.append({"input_ids": row.input_ids, "labels": row.labels, "row": number, "anchor": anchor})
        return found

    def own_features(self, learnt: int) -> list[dict[str, Any]]:
        """The refusals themselves: no label is learnt, `anchored` has those whose predictions are compared. Their numbers
        come after those of the `learnt` rows."""
        return [
            {
                "input_ids": row.input_ids,
                "labels": [IGNORED] * len(row.labels),
                "row": learnt + number,
                "anchored": row.labels,
            }
            for number, row in enumerate(self.rows)
        ]

    def collator(self, pad: Any, learnt: int) -> "AnchorCollator":
        """`pad`: collator of rows without anchors; `learnt`: number of rows that are learnt."""
        return AnchorCollator(pad, self.own_features(learnt))


class AnchorCollator:
    """Batches of rows and of the refusals that they bring along; `anchored` [batch, length] are the refusals' labels."""

    def __init__(self, pad: Any, anchors: Sequence[Mapping[str, Any]]) -> None:
        self._pad, self._anchors = pad, anchors

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, "Tensor"]:
        import torch

        brought = [self._anchors[row["anchor"]] for row in features if row.get("anchor", -1) >= 0]
        rows = [*features, *brought]
        batch = dict(self._pad([{key: row[key] for key in ("input_ids", "labels", "row")} for row in rows]))
        anchored = torch.full_like(batch["labels"], IGNORED)
        for place, row in enumerate(rows):
            labels = row.get("anchored", [])
            anchored[place, : len(labels)] = torch.tensor(labels, dtype=anchored.dtype)
        return {**batch, "anchored": anchored}


def read_anchors(settings: AnchorSettings, tokenizer: Any, max_length: int, seed: int) -> Anchors:
    """Raises FinetuneDataError for what is wrong with the file (see `read_chats`, `tokenise_chats`)."""
    chats = read_chats(settings.path)
    chosen = drawn(chats, settings.rows or len(chats), seed, "finetune-anchors")
    return Anchors(tokenise_chats(chosen, tokenizer, max_length), settings.share, seed)
