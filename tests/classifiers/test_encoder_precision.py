"""The encoder's precisions: a text's vectors are the same bytes whatever its neighbours, and close to float32."""

import functools
import subprocess
import sys

import numpy as np
import pytest

from classifiers.encoder import Encoder
from classifiers.errors import DependencyError, ModelError
from classifiers.reduced_precision import PRECISIONS, CompiledEncoder

TEXTS = [
    "The ferry to the island leaves at nine and at noon.",
    "One word",
    "Knead the dough for ten minutes, then let it rise in a warm place. " * 12,
    "Die Fähre fährt um neun Uhr ab.",
    "x",
]


@functools.lru_cache
def encoder(precision):
    if precision != "float32":
        openvino = pytest.importorskip("openvino")
        if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            pytest.skip("this processor has no AVX-512 BF16")
    return Encoder(precision=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_neighbours_and_order_do_not_change_a_bit(precision):
    model = encoder(precision)
    alone = [model.embed([text]).vectors.tobytes() for text in TEXTS]
    together, reversed_ = model.embed(TEXTS), model.embed(TEXTS[::-1])
    for index in range(len(TEXTS)):
        assert together.vectors[together.document == index].tobytes() == alone[index]
        assert reversed_.vectors[reversed_.document == len(TEXTS) - 1 - index].tobytes() == alone[index]


def test_bfloat16_is_close_to_float32_and_not_the_same():
    exact, reduced = encoder("float32").embed(TEXTS).vectors, encoder("bfloat16").embed(TEXTS).vectors
    assert not np.array_equal(exact, reduced)
    assert (exact * reduced).sum(axis=1).min() > 0.9995
    assert np.allclose((reduced**2).sum(axis=1), 1, atol=1e-3)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision 'float8': expected one of float32, bfloat16"):
        Encoder(precision="float8")


def test_bfloat16_needs_openvino(monkeypatch):
    monkeypatch.setattr("classifiers.reduced_precision.find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"precision bfloat16 needs OpenVINO: pip install openvino; or set it to"):
        CompiledEncoder(encoder("float32").model, 1, [101, 102])


def test_bfloat16_needs_a_processor_that_has_it(monkeypatch):
    openvino = pytest.importorskip("openvino")
    monkeypatch.setattr(openvino.Core, "get_property", lambda self, device, name: ["FP32", "INT8"])
    with pytest.raises(ModelError, match=r"AVX-512 BF16; set score\.embedding\.precision to float32"):
        CompiledEncoder(encoder("float32").model, 1, [101, 102])


def test_openvino_is_imported_without_its_telemetry():
    pytest.importorskip("openvino")
    code = (
        "from classifiers.reduced_precision import _import_openvino; _import_openvino();"
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "openvino.tools.ovc.telemetry_stub"
