"""Linear layers of an encoder in bfloat16 or int8 on CPU; everything between them stays float32."""

import warnings

import torch
from torch import nn

from classifiers.errors import ModelError

PRECISIONS = ("float32", "bfloat16", "int8")
_INT8_STEPS = 255.0


class BFloat16Linear(nn.Module):
    """A linear layer whose product is taken in bfloat16; float32 in and out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight_oi = linear.weight.detach().bfloat16()
        self.bias_o = None if linear.bias is None else linear.bias.detach().bfloat16()

    def forward(self, input_bti: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(input_bti.bfloat16(), self.weight_oi, self.bias_o).float()


class Int8Linear(nn.Module):
    """A linear layer whose product is taken in int8: a scale for each output row of the weights, and a range for each
    token, so that a token's quantisation does not depend on the others. Float32 in and out.

    With x = low + (high - low) u and u in [0, 1] quantised to 0..255: W x + b = (high - low) (W u) + low (W 1) + b.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_oi = linear.weight.detach().float()
        scale_o = (weight_oi.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        int8_oi = torch.round(weight_oi / scale_o[:, None]).clamp(-127, 127).to(torch.int8)
        zeros_o = torch.zeros(len(scale_o), dtype=torch.long)
        with (
            warnings.catch_warnings()
        ):  # torch means to drop quantized tensors; what replaces them has no CPU kernel yet
            warnings.simplefilter("ignore", UserWarning)
            quantized_oi = torch._make_per_channel_quantized_tensor(int8_oi, scale_o.double(), zeros_o, 0)
        self._packed = torch.ops.quantized.linear_prepack(quantized_oi, None)
        self.row_sum_o = int8_oi.float().sum(1) * scale_o
        self.bias_o = torch.zeros_like(scale_o) if linear.bias is None else linear.bias.detach().float()

    def forward(self, input_bti: torch.Tensor) -> torch.Tensor:
        low_bt1 = input_bti.amin(-1, keepdim=True)
        range_bt1 = (input_bti.amax(-1, keepdim=True) - low_bt1).clamp_min(torch.finfo(torch.float32).tiny)
        unit_bti = (input_bti - low_bt1) / range_bt1
        product_bto = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            unit_bti, 1 / _INT8_STEPS, 0, self._packed
        )
        return torch.addcmul(torch.addcmul(self.bias_o, low_bt1, self.row_sum_o), product_bto, range_bt1)


def reduce_precision(model: nn.Module, precision: str) -> None:
    """Replace every linear layer of the model, in place. `precision`: "float32" (nothing), "bfloat16" or "int8".

    Raises ValueError for another precision, ModelError for int8 on a processor that lacks the instructions for it.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if precision == "float32":
        return
    if precision == "int8" and not torch.cpu._is_vnni_supported():
        raise ModelError(
            "precision int8 needs a processor with AVX-512 VNNI (without it sums saturate); "
            "set score.embedding.precision to float32 or bfloat16"
        )
    replacement = BFloat16Linear if precision == "bfloat16" else Int8Linear
    engine = torch.backends.quantized.engine
    try:
        torch.backends.quantized.engine = "fbgemm" if precision == "int8" else engine
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if type(child) is nn.Linear:
                    setattr(parent, name, replacement(child))
    finally:
        torch.backends.quantized.engine = engine
