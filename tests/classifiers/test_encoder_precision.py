"""The encoder's precisions: a text's vectors are the same bytes whatever its neighbours, and close to float32."""

import numpy as np
import pytest
import torch

from classifiers.encoder import Encoder
from classifiers.errors import ModelError
from classifiers.reduced_precision import PRECISIONS, Int8Linear, reduce_precision

TEXTS = [
    "The ferry to the island leaves at nine and at noon.",
    "One word",
    "Knead the dough for ten minutes, then let it rise in a warm place. " * 12,
    "Die Fähre fährt um neun Uhr ab.",
    "x",
]


def encoder(precision):
    if precision == "int8" and not torch.cpu._is_vnni_supported():
        pytest.skip("this processor has no AVX-512 VNNI")
    return Encoder(precision=precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_neighbours_and_order_do_not_change_a_bit(precision):
    model = encoder(precision)
    alone = [model.embed([text]).vectors.tobytes() for text in TEXTS]
    together, reversed_ = model.embed(TEXTS), model.embed(TEXTS[::-1])
    for index in range(len(TEXTS)):
        assert together.vectors[together.document == index].tobytes() == alone[index]
        assert reversed_.vectors[reversed_.document == len(TEXTS) - 1 - index].tobytes() == alone[index]


@pytest.mark.parametrize(("precision", "least"), [("bfloat16", 0.9995), ("int8", 0.99)])
def test_reduced_precision_is_close_to_float32(precision, least):
    exact, reduced = Encoder().embed(TEXTS).vectors, encoder(precision).embed(TEXTS).vectors
    assert not np.array_equal(exact, reduced)
    assert (exact * reduced).sum(axis=1).min() > least


def test_int8_linear_is_the_product_and_treats_each_token_by_itself():
    if not torch.cpu._is_vnni_supported():
        pytest.skip("this processor has no AVX-512 VNNI")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    tokens_ti = torch.randn(5, 64) + torch.arange(5)[:, None]
    with torch.inference_mode():
        expected_to = model(tokens_ti)
        reduce_precision(model, "int8")
        assert isinstance(model[0], Int8Linear)
        found_to = model(tokens_ti)
        assert (found_to - expected_to).abs().max() < 0.03 * expected_to.abs().max()
        outlier_ti = torch.cat([tokens_ti[:1], 1000 * tokens_ti[1:]])
        assert torch.equal(model(outlier_ti)[0], found_to[0])
        assert torch.allclose(model(torch.full((1, 64), 2.0)), _bias_and_sum(model[0]), atol=1e-4)


def _bias_and_sum(linear):
    return (linear.bias_o + 2.0 * linear.row_sum_o)[None]


def test_what_cannot_be_had_is_refused(monkeypatch):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with pytest.raises(ValueError, match="expected one of float32, bfloat16, int8"):
        reduce_precision(model, "float8")
    monkeypatch.setattr("torch.cpu._is_vnni_supported", lambda: False)
    with pytest.raises(ModelError, match=r"needs a processor with AVX-512 VNNI .* set score\.embedding\.precision"):
        reduce_precision(model, "int8")
