"""The penalty's identities (sheet on STR, U3, U4, U8, U10-U16): worked numbers, gradients, spaces against each other."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import SafetyTokenError
from finetune.positions import next_labels, position_mask, turn_offsets
from finetune.safety_token_regularization import anchor_values, drift_penalty, str_penalty

SPACES = ("raw", "logprob", "centered", "mass")
START = torch.tensor([2.0, 1, 0, -1, 0.5], dtype=torch.float64)
TUNED = torch.tensor([1.4, 1.2, 0, -1.3, 2.5], dtype=torch.float64)
ONE = torch.ones(1, 1, dtype=torch.bool)


def penalty(tuned, start, ids, mask=ONE, **options):
    return str_penalty(tuned.reshape(*mask.shape, -1), start.reshape(*mask.shape, -1), ids, mask, **options)


def gradient(function, logits):
    leaf = logits.clone().requires_grad_(True)
    function(leaf).backward()
    return leaf.grad


@pytest.mark.parametrize(
    ("space", "drift", "mean", "total", "slopes"),
    [
        ("raw", (-0.6, -0.3), 0.225, 0.45, (-0.6, 0, 0, -0.3, 0)),
        ("logprob", (-1.061973, -0.761973), 0.854194, 1.708389, (-0.706892, 0.290716, 0.087562, -0.738109, 1.066723)),
        ("centered", (-0.86, -0.56), 0.5266, 1.0532, (-0.576, 0.284, 0.284, -0.276, 0.284)),
        ("mass", (-1.045517,), 1.093105, 1.093105, (-1.552277, 0.333287, 0.100384, -0.104322, 1.222927)),
    ],
)
def test_u15_the_worked_row(space, drift, mean, total, slopes):
    ids = torch.tensor([0, 3])
    found = anchor_values(TUNED, ids, space) - anchor_values(START, ids, space)
    assert found.tolist() == pytest.approx(drift, abs=1e-6)
    assert float(penalty(TUNED, START, [0, 3], space=space)) == pytest.approx(mean, abs=1e-6)
    assert float(penalty(TUNED, START, [0, 3], space=space, reduction="sum")) == pytest.approx(total, abs=1e-6)
    assert gradient(lambda z: penalty(z, START, [0, 3], space=space), TUNED).tolist() == pytest.approx(slopes, abs=1e-6)


def test_u15_the_raw_anchor_does_not_see_that_the_mass_is_gone():
    masses = [float(row.softmax(0)[[0, 3]].sum()) for row in (START, TUNED)]
    assert masses == pytest.approx([0.591052, 0.207761], abs=1e-6)
    assert float(penalty(TUNED, START, [0, 3])) == pytest.approx(0.225)


@st.composite
def cases(draw):
    batch, length, vocabulary = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(2, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    tuned, start = (torch.randn(batch, length, vocabulary, dtype=torch.float64, generator=generator) * 2 for _ in "ab")
    mask = torch.rand(batch, length, generator=generator) < 0.7
    size = draw(st.integers(1, vocabulary))
    ids = torch.randperm(vocabulary, generator=generator)[:size].tolist()
    options = {
        "space": draw(st.sampled_from(SPACES)),
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "one_sided": draw(st.booleans()),
    }
    return tuned, start, ids, mask, options


@settings(max_examples=60, deadline=None)
@given(cases())
def test_value_is_the_written_formula_and_gradient_the_written_one(case):
    tuned, start, ids, mask, options = case
    space, size = options["space"], len(ids)
    total, slopes = 0.0, torch.zeros_like(tuned)
    for place in mask.nonzero().tolist():
        z, z0 = tuned[tuple(place)], start[tuple(place)]
        p, p0, inside = z.softmax(0), z0.softmax(0), torch.zeros(len(z), dtype=torch.bool)
        inside[ids] = True
        r = 1.0 if space == "mass" or options["reduction"] == "sum" else 1 / size
        d = {
            "raw": z - z0,
            "logprob": p.log() - p0.log(),
            "centered": (z - z.mean()) - (z0 - z0.mean()),
            "mass": (p[inside].sum().log() - p0[inside].sum().log()).expand(len(z)),
        }[space].clone()
        if options["one_sided"]:
            d.clamp_(max=0)
        total += r * float(d[0] ** 2 if space == "mass" else d[inside].square().sum())
        pulled = 2 * r * d * inside
        slopes[tuple(place)] = {
            "raw": pulled,
            "logprob": pulled - 2 * r * p * d[inside].sum(),
            "centered": pulled - 2 * r * d[inside].sum() / len(z),
            "mass": 2 * d * (inside * p / p[inside].sum() - p),
        }[space]
    count = max(int(mask.sum()), 1)
    found = penalty(tuned, start, ids, mask, **options)
    assert float(found) == pytest.approx(total / count, rel=1e-9, abs=1e-12)
    grads = gradient(lambda z: penalty(z, start, ids, mask, **options), tuned)
    assert torch.allclose(grads, slopes / count, atol=1e-9)
    # U10: sums over the vocabulary; U3: what is not anchored is not seen
    if space != "raw":
        assert torch.allclose(grads.sum(-1), torch.zeros(mask.shape, dtype=torch.float64), atol=1e-9)
    assert not grads[~mask].any()


def test_gradients_agree_with_finite_differences():
    start, tuned = (
        torch.randn(2, 3, 6, dtype=torch.float64),
        torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True),
    )
    mask = torch.tensor([[True, False, True], [False, True, True]])
    for space in SPACES:
        assert torch.autograd.gradcheck(
            lambda z, space=space: str_penalty(z, start, [1, 4], mask, space=space), (tuned,), atol=1e-9
        )


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(-5, 5))
def test_identities_that_hold_for_all_logits(case, shift):
    tuned, start, ids, mask, options = case
    zero = penalty(start, start, ids, mask, **options)
    assert float(zero) == 0  # no drift
    # U4: a uniform shift costs c^2 in raw space and nothing in the others
    shifted = penalty(start + shift, start, ids, mask, space=options["space"])
    expected = shift**2 if options["space"] == "raw" and mask.any() else 0.0
    assert float(shifted) == pytest.approx(expected, abs=1e-9)
    # U11: all mass is 1; U12: one token's mass is its probability
    vocabulary = tuned.shape[-1]
    assert float(penalty(tuned, start, list(range(vocabulary)), mask, space="mass")) == pytest.approx(0, abs=1e-20)
    one = [penalty(tuned, start, ids[:1], mask, space=space) for space in ("logprob", "mass")]
    assert float(one[0]) == pytest.approx(float(one[1]), rel=1e-9, abs=1e-12)
    # U13: equal means, equal penalties
    level = tuned - tuned.mean(-1, keepdim=True) + start.mean(-1, keepdim=True)
    same = [penalty(level, start, ids, mask, space=space) for space in ("raw", "centered")]
    assert float(same[0]) == pytest.approx(float(same[1]), rel=1e-9, abs=1e-12)
    # U14: one-sided
    for sign, both in ((-1, True), (1, False)):
        moved = start + sign * (tuned - start).abs()
        one_sided = float(penalty(moved, start, ids, mask, one_sided=True))
        assert one_sided == pytest.approx(float(penalty(moved, start, ids, mask)) if both else 0.0, rel=1e-12)
    # sum is |S| times mean
    sums = [float(penalty(tuned, start, ids, mask, reduction=r)) for r in ("mean", "sum")]
    assert sums[1] == pytest.approx(len(ids) * sums[0], rel=1e-12)


def test_u3_and_u4_in_numbers():
    start = torch.randn(1, 1, 7, dtype=torch.float64)
    outside, inside = start.clone(), start.clone()
    outside[..., 5] += 3
    inside[..., 2] += 0.5
    assert float(penalty(outside, start, [1, 2])) == 0
    assert float(penalty(inside, start, [1, 2])) == pytest.approx(0.25 / 2)
    assert float(penalty(inside, start, [1, 2], reduction="sum")) == pytest.approx(0.25)
    assert float(penalty(start + 1.7, start, [1, 2])) == pytest.approx(2.89)


def test_u16_positions_are_pooled_over_the_whole_update():
    values = [torch.tensor([[math.sqrt(x)] for x in row]) for row in ((0.2, 0.4), (0.9,))]
    zeros = [torch.zeros_like(v) for v in values]
    pooled = drift_penalty(torch.cat(values), torch.cat(zeros))
    parts = [drift_penalty(v, z, num_positions=3) for v, z in zip(values, zeros, strict=True)]
    assert float(pooled) == pytest.approx(0.5) == pytest.approx(float(sum(parts)))
    rows = [float(drift_penalty(v, z)) for v, z in zip(values, zeros, strict=True)]
    assert sum(rows) / 2 == pytest.approx(0.6)


def test_u8_positions():
    #                       system, question | answer, end | padding;   two turns;   no label at all
    labels = torch.tensor([[-100, -100, 5, 6, 7, -100], [-100, 3, -100, -100, 4, 8], [-100] * 6])
    attention = torch.tensor([[1, 1, 1, 1, 1, 0], [1] * 6, [1, 1, 1, 0, 0, 0]])
    response = position_mask(labels, attention)
    assert response.int().tolist() == [[0, 1, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0], [0] * 6]
    assert turn_offsets(labels).tolist() == [[0, 1, 2, 3, 0, 0], [1, 0, 0, 1, 2, 0], [0] * 6]
    first = position_mask(labels, attention, "first_k", 1)
    assert first.int().tolist() == [[0, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [0] * 6]
    assert torch.equal(position_mask(labels, attention, "first_k", 9), response)
    everything = position_mask(labels, attention, "all_nonpad")
    assert everything.int().tolist() == [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]]
    assert next_labels(labels)[0].tolist() == [-100, 5, 6, 7, -100, -100]
    # a row without a label adds nothing, and a batch of such rows is 0 with a gradient of 0
    logits, start = torch.randn(3, 6, 9, requires_grad=True), torch.randn(3, 6, 9)
    whole = str_penalty(logits, start, [1, 2], response)
    assert torch.equal(whole, str_penalty(logits[:2], start[:2], [1, 2], response[:2]))
    nothing = str_penalty(logits[2:], start[2:], [1, 2], response[2:])
    nothing.backward()
    assert float(nothing) == 0 and not logits.grad.any()


def test_u5_padding_and_the_neighbours_in_a_batch_do_not_matter():
    tuned, start = torch.randn(2, 5, 8, dtype=torch.float64), torch.randn(2, 5, 8, dtype=torch.float64)
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
    whole = str_penalty(tuned, start, [0, 5], mask)
    padded = [torch.nn.functional.pad(t, (0, 0, 0, 3), value=7.0) for t in (tuned, start)]
    assert torch.equal(whole, str_penalty(*padded, [0, 5], torch.nn.functional.pad(mask, (0, 3))))
    parts = [str_penalty(tuned[i : i + 1], start[i : i + 1], [0, 5], mask[i : i + 1], num_positions=5) for i in (1, 0)]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-12)


def test_half_precision_is_widened_after_the_columns_are_taken():
    tuned, start = torch.randn(1, 2, 9), torch.randn(1, 2, 9)
    mask = torch.ones(1, 2, dtype=torch.bool)
    for space in SPACES:
        half = str_penalty(tuned.bfloat16(), start.bfloat16(), [3, 1], mask, space=space)
        wide = str_penalty(tuned.bfloat16().float(), start.bfloat16().float(), [3, 1], mask, space=space)
        assert half.dtype == torch.float32 and torch.allclose(half, wide, rtol=1e-6)


def test_u9_sets_that_cannot_be_anchored_are_refused():
    logits = torch.zeros(1, 1, 5)
    for ids, message in (
        ([], "the set of safety tokens is empty"),
        ([1, 1], "names a token twice"),
        ([5], "ids from 0 to 4"),
    ):
        with pytest.raises(SafetyTokenError, match=message):
            str_penalty(logits, logits, ids, ONE)
    with pytest.raises(SafetyTokenError, match="was the vocabulary resized"):
        str_penalty(logits, torch.zeros(1, 1, 6), [1], ONE)
    assert not str_penalty(logits, torch.zeros(1, 1, 5, requires_grad=True), [1], ONE).requires_grad
