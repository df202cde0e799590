"""Safe LoRA (arXiv 2405.16833), a baseline without training: adapters are projected onto the direction of the alignment.

V = W_aligned - W_base, C = V V^T / ||V||_F; B becomes C B where cos(C B A, B A) is at most a threshold (or in the layers with
the smallest cosine). Form and constants are those of the authors' code; C is scaled by ||V||_F, so it is no exact projection.
"""

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from finetune.errors import FinetuneModelError
from finetune.loading import load_starting_model, starting_reference
from finetune.training import Run

if TYPE_CHECKING:
    from torch import Tensor


class SafeLoraSettings(BaseModel):
    """Which adapters are projected."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_model: str = Field(description="the model before its alignment; the recipe's `model` is the aligned one")
    threshold: float = Field(0.5, ge=-1, le=1, description="adapters with a cosine of at most this are projected")
    layers: int | None = Field(None, ge=1, description="in place of the threshold: so many, the smallest cosines first")


def alignment_matrix(aligned: "Tensor", base: "Tensor") -> "Tensor":
    """C [out, out] = V V^T / ||V||_F of two weights [out, in]; zero where the weights are equal."""
    difference = aligned - base
    norm = difference.norm()
    return difference @ difference.T / norm if norm > 0 else difference.new_zeros(len(difference), len(difference))


def projection_cosine(matrix: "Tensor", lora_b: "Tensor", lora_a: "Tensor") -> float:
    """cos(C B A, B A) over all entries; C [out, out], B [out, rank], A [rank, in]. 0 where one of them is zero."""
    import torch

    update = lora_b @ lora_a
    return float(torch.nn.functional.cosine_similarity((matrix @ update).flatten(), update.flatten(), dim=0))


def safe_lora_inputs(recipe: Any, _: Any) -> dict[str, str]:
    """The revision of the model before its alignment."""
    return {"safe_lora.base_model": starting_reference(recipe.safe_lora.base_model).revision}


def project_adapters(run: Run) -> None:
    """Projects the adapters of a trained run in place; cosines and the projected layers go into the facts.

    Raises FinetuneModelError where the base model has other weights than the aligned one.
    """
    import torch

    settings: SafeLoraSettings = run.recipe.safe_lora
    base = dict(load_starting_model(settings.base_model).model.named_modules())
    layers = {
        name.removeprefix("base_model.model."): module
        for name, module in run.model.named_modules()
        if hasattr(module, "lora_B") and hasattr(module, "base_layer")
    }
    matrices, cosines = {}, {}
    with torch.no_grad():
        for name, layer in layers.items():
            weight = layer.base_layer.weight
            other = getattr(base.get(name), "weight", None)
            if other is None or other.shape != weight.shape:
                raise FinetuneModelError(
                    f"safe_lora.base_model {settings.base_model}: {name} is missing or of another shape; give the model that "
                    f"{run.recipe.model} was aligned from"
                )
            matrices[name] = alignment_matrix(weight, other.to(weight.device))
            b, a = layer.lora_B["default"].weight, layer.lora_A["default"].weight
            cosines[name] = projection_cosine(matrices[name], b, a)
        chosen = chosen_layers(cosines, settings)
        for name in chosen:
            b = layers[name].lora_B["default"].weight
            b.copy_(matrices[name] @ b)
    run.facts["safe_lora"] = {"cosines": cosines, "projected": chosen}
    run.report(f"Safe LoRA: {len(chosen)} of {len(layers)} adapters projected")


def chosen_layers(cosines: dict[str, float], settings: SafeLoraSettings) -> list[str]:
    """Names of the adapters to project, smallest cosine first."""
    ordered = sorted(cosines, key=lambda name: (cosines[name], name))
    if settings.layers is not None:
        return ordered[: settings.layers]
    return [name for name in ordered if cosines[name] <= settings.threshold]
