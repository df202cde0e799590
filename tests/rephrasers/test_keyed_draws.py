"""Golden vectors of the safety-pretraining sheet (T1, R1)."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rephrasers.keyed_draws import draw_key, keyed_uniforms


def test_golden_key_and_first_draws():
    assert draw_key(0, "tag", "doc-0") == 0x5B9D3B0A3D57F5C5
    np.testing.assert_allclose(
        keyed_uniforms(0, "tag", "doc-0", 3), [0.453458782, 0.392318265, 0.812085956], atol=5e-10
    )


def test_golden_template_draws():
    styles = [int(12 * keyed_uniforms(0, "template", f"doc-{i}", 1)[0]) for i in range(10)]
    assert styles == [6, 9, 8, 10, 8, 11, 0, 9, 4, 10]


def test_template_draws_are_uniform():
    counts = np.bincount([int(12 * keyed_uniforms(0, "template", f"doc-{i}", 1)[0]) for i in range(12_000)])
    assert round(float(((counts - 1000) ** 2 / 1000).sum()), 2) == 8.69


@given(st.text(), st.integers(0, 50), st.integers(0, 50))
def test_draws_are_nested_and_in_range(document_id, short, more):
    few, many = keyed_uniforms(7, "tag", document_id, short), keyed_uniforms(7, "tag", document_id, short + more)
    assert (many[:short] == few).all()
    assert ((many >= 0) & (many < 1)).all()
