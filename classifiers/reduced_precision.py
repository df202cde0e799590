"""Encoders compiled by OpenVINO for bfloat16 on CPU: products and attention; sums are kept in float32."""

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

from classifiers.errors import DependencyError, ModelError

PRECISIONS = ("float32", "bfloat16")


class _Pooled(nn.Module):
    """The encoder with the mean over tokens and the division by the length: token ids [1, tokens] to [1, size]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_bt: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.model(input_ids=ids_bt).last_hidden_state.mean(1), dim=-1)


class CompiledEncoder:
    """A transformers encoder that OpenVINO compiled for this processor, in bfloat16. One window at a time."""

    def __init__(self, model: nn.Module, threads: int, example: list[int]) -> None:
        """`model`: takes `input_ids` [1, tokens]; `example`: ids of any window, with which it is traced; windows of every
        other length work afterwards.

        Raises DependencyError without OpenVINO, ModelError on a processor without bfloat16, where OpenVINO would quietly
        compute in float32 and a recipe's precision would not be what made the scores.
        """
        openvino = _import_openvino()
        core = openvino.Core()
        if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ModelError(
                "precision bfloat16 needs a processor with AVX-512 BF16; set score.embedding.precision to float32"
            )
        with torch.inference_mode():
            graph = openvino.convert_model(
                _Pooled(model).eval(),
                example_input=torch.tensor([example]),
                input=[openvino.PartialShape([1, -1])],
            )
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the workers of a machine would all be put on its first cores
        }
        self._request = core.compile_model(graph, "CPU", settings).create_infer_request()

    def vector(self, window: list[int]) -> np.ndarray:
        """[size], float32, of length 1: the mean over the tokens of the window."""
        found: np.ndarray = self._request.infer([np.array([window], dtype=np.int64)])[0][0]
        return found.copy()  # the request owns what it returns


def _import_openvino() -> Any:
    """OpenVINO without its telemetry, which reports every import to its maker unless the user has opted out."""
    if find_spec("openvino") is None:
        raise DependencyError(
            "score.embedding.precision bfloat16 needs OpenVINO: pip install openvino; or set it to float32"
        )
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None makes its import fail: a stub is taken
    import openvino

    return openvino
