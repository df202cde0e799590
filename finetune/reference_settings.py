"""How a method gets its reference: online with the adapter off, from a frozen copy, or computed once and kept on disk."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune.reference import FrozenReader, Reading, Reference, adapter_off_reference, frozen_copy_reference
from finetune.reference_cache import CachedReference, check_identity, is_kept, keep_reference
from finetune.training import Run, batches

if TYPE_CHECKING:
    from torch import Tensor


class ReferenceSettings(BaseModel):
    """Keys of every method that compares with the starting model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: Literal["online", "cached"] = Field(
        "online",
        description="online: one more forward pass an update (with full fine-tuning: of a second copy of the weights); cached: "
        "computed once for all rows and kept",
    )
    cache: Path | None = Field(None, description="folder of the kept reference; none: OUTPUT/reference")
    cache_precision: Literal["float32", "float16"] = Field("float32", description="of the kept values")


def make_reference(
    run: Run,
    settings: ReferenceSettings,
    reading: Reading,
    mask: Callable[[Mapping[str, "Tensor"]], "Tensor"],
    identity: Mapping[str, Any],
) -> Reference:
    """The reference of a run. `identity`: what the values depend on beside rows, model, tokenizer and precision.

    Raises ReferenceCacheError where a kept reference belongs to something else.
    """
    if settings.reference == "online":
        make = adapter_off_reference if run.recipe.lora is not None else frozen_copy_reference
        return make(run.model, reading)
    folder = settings.cache or run.recipe.output / "reference"
    whole = {
        "rows": run.rows.facts["sha256"],
        "model": run.start.reference.revision,
        "tokenizer": tokenizer_sha256(run.start.tokenizer),
        "vocabulary": run.start.model.get_output_embeddings().weight.shape[0],
        "precision": f"{run.recipe.precision}, kept in {settings.cache_precision}",
        **identity,
    }
    if is_kept(folder):
        check_identity(folder, whole)
    else:
        run.report(f"computing the reference of {len(run.rows.train)} rows into {folder}")
        _keep(run, settings, folder, whole, reading, mask)
    return CachedReference(folder, whole)


def _keep(
    run: Run,
    settings: ReferenceSettings,
    folder: Path,
    identity: Mapping[str, Any],
    reading: Reading,
    mask: Callable[[Mapping[str, "Tensor"]], "Tensor"],
) -> None:
    import torch

    def targets(batch: Mapping[str, Any], chosen: "Tensor") -> "Tensor":
        return torch.nn.functional.pad(batch["input_ids"][:, 1:], (0, 1))[chosen]

    reader = FrozenReader(run.model, reading)
    device = run.model.device
    rows = batches(run.rows.train, run.start.tokenizer, run.recipe.micro_batch_size, device, run.anchors)
    with torch.autocast(device.type, torch.bfloat16, enabled=run.recipe.precision == "bf16"):
        keep_reference(folder, identity, reader, rows, mask, targets, settings.cache_precision)


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hex sha256 of vocabulary, special tokens and chat template."""
    content = [sorted(tokenizer.get_vocab().items()), sorted(tokenizer.all_special_ids), tokenizer.chat_template]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
