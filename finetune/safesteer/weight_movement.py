"""How far training moved the weights: comparable between runs of different learning rates and precisions."""

from typing import Any

import torch


def relative_movement(model: Any, before: Any | None) -> float:
    """||change of the weights|| / ||weights before||, Frobenius norms over all of them.

    before: the frozen copy that training started from; None where `model` carries a LoRA adapter, whose update B A is then
    the change.
    """
    with torch.no_grad():
        if before is not None:
            pairs = list(zip(model.parameters(), before.parameters(), strict=True))
            change = sum(float((new.double() - old.double()).square().sum()) for new, old in pairs)
            return (change / sum(float(old.double().square().sum()) for _, old in pairs)) ** 0.5
        change = 0.0
        for module in model.modules():
            if hasattr(module, "get_delta_weight"):
                change += sum(
                    float(module.get_delta_weight(name).double().square().sum()) for name in module.active_adapters
                )
        base = [weight for name, weight in model.named_parameters() if "lora_" not in name]
        return (change / sum(float(weight.double().square().sum()) for weight in base)) ** 0.5
