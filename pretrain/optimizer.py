"""AdamW on float32 master weights, and its state as named tensors for checkpoints."""

import torch
from torch import Tensor

from pretrain.model import Decoder
from pretrain.recipe import PretrainRecipe


def new_optimizer(recipe: PretrainRecipe, decoder: Decoder) -> torch.optim.AdamW:
    """AdamW; matrices decay, norms do not. The parameters are the master weights: FSDP2 makes the bf16 copies."""
    matrices = [parameter for parameter in decoder.parameters() if parameter.dim() > 1]
    norms = [parameter for parameter in decoder.parameters() if parameter.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": norms, "weight_decay": 0.0}],
        lr=recipe.lr,
        betas=(recipe.adam_beta1, recipe.adam_beta2),
        eps=recipe.adam_eps,
        fused=True,
    )


def optimizer_tensors(decoder: Decoder, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Step and moments of each parameter by name; those that no update has made yet are made here, of zeros.

    They are the optimizer's own tensors: loading into them in place is loading the optimizer. Rates and betas are not
    among them, since the recipe sets those.
    """
    tensors = {}
    for name, parameter in decoder.named_parameters():
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        for key in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"{name}.{key}"] = state[key].detach()
    return tensors
