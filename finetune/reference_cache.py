"""Reference values computed once and kept on disk: only the columns that are compared, one block a row.

`reference.safetensors` holds `values` [positions of all rows, width] (float32 or float16) and `starts` [rows + 1];
`reference.json`, written last, says what they belong to. Another run with other rows, tokens, positions or model is refused.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune.errors import ReferenceCacheError
from finetune.files import sync_and_rename, temporary_name, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.reference import Reference

Precision = Literal["float32", "float16"]
VALUES, IDENTITY = "reference.safetensors", "reference.json"


class CachedReference:
    """Values by row number: the batch names its rows in `row`, as the collator of this room does."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Opens what `keep_reference` wrote. Raises ReferenceCacheError where it belongs to something else."""
        from safetensors.torch import load_file

        check_identity(folder, identity)
        kept = load_file(folder / VALUES)
        self._values, self._starts = kept["values"], kept["starts"].tolist()

    def values(self, batch: Mapping[str, "Tensor"], mask: "Tensor", targets: "Tensor") -> "Tensor":
        """See `finetune.reference.Reference`. Raises ReferenceCacheError where a row has other positions than when kept."""
        import torch

        blocks = []
        for row, positions in zip(batch["row"].tolist(), mask.sum(dim=1).tolist(), strict=True):
            block = self._values[self._starts[row] : self._starts[row + 1]]
            if len(block) != positions:
                raise ReferenceCacheError(
                    f"row {row} has {positions} compared positions, {len(block)} are kept: the rows are tokenised or cut "
                    "otherwise than when the reference was kept; delete the kept reference"
                )
            blocks.append(block)
        return torch.cat(blocks).to(mask.device, torch.float32)


def keep_reference(
    folder: Path,
    identity: Mapping[str, Any],
    reference: "Reference",
    batches: Iterable[Mapping[str, "Tensor"]],
    masks: Callable[[Mapping[str, "Tensor"]], "Tensor"],
    targets: Callable[[Mapping[str, "Tensor"], "Tensor"], "Tensor"],
    precision: Precision,
) -> None:
    """Computes and writes the values of all rows; `batches` hold every row once (`row`: its number), in any order.

    `masks(batch)` gives the compared positions, `targets(batch, mask)` the ids predicted there.
    """
    import torch
    from safetensors.torch import save_file

    blocks: dict[int, Tensor] = {}
    for batch in batches:
        mask = masks(batch)
        values = reference.values(batch, mask, targets(batch, mask)).to("cpu", getattr(torch, precision))
        counts = mask.sum(dim=1).tolist()
        blocks |= dict(zip(batch["row"].tolist(), values.split(counts), strict=True))
    ordered = [blocks[row] for row in range(len(blocks))]
    starts = torch.tensor([0, *[len(block) for block in ordered]]).cumsum(dim=0)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(folder / VALUES)
    save_file({"values": torch.cat(ordered), "starts": starts}, temporary)
    sync_and_rename(temporary, folder / VALUES)
    write_json(folder / IDENTITY, dict(identity))


def is_kept(folder: Path) -> bool:
    """Whether a whole cache lies in the folder, whatever it belongs to."""
    return (folder / IDENTITY).is_file() and (folder / VALUES).is_file()


def check_identity(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raises ReferenceCacheError that names each key in which the kept values and this run differ."""
    try:
        kept = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReferenceCacheError(f"{folder / IDENTITY} cannot be read ({error}): delete the kept reference") from error
    wanted = json.loads(json.dumps(dict(identity)))
    if different := sorted(key for key in kept.keys() | wanted.keys() if kept.get(key) != wanted.get(key)):
        shown = "; ".join(f"{key}: {_short(kept.get(key))} kept, {_short(wanted.get(key))} now" for key in different)
        raise ReferenceCacheError(
            f"{folder} holds the reference of another run ({shown}): delete it, or name another folder"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
