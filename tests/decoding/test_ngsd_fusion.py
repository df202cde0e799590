"""The formulas of a step: worked rows, identities, the rule by which a token flips, the margin that decides without an expert."""

import pytest
import torch

from decoding.ngsd.fusion import (
    change_chance,
    deciding_margin,
    disagreement,
    fused_choice,
    fused_scores,
    margin,
    probabilities,
    undecided,
)

BASE = torch.tensor([[0.50, 0.30, 0.10, 0.06, 0.04]], dtype=torch.float64)
EXPERT = torch.tensor([[0.05, 0.15, 0.20, 0.55, 0.05]], dtype=torch.float64)


def rows(count, size, seed, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(count, size, dtype=torch.float64, generator=generator) * sharpness).softmax(-1)


def scores(strength, candidates, base=BASE, expert=EXPERT):
    return fused_scores(base, expert, torch.full((len(base),), strength, dtype=torch.float64), candidates)


@pytest.mark.parametrize(
    ("strength", "candidates", "expected", "token"),
    [
        (0.1, 64, [0.455, 0.285, 0.11, 0.109, 0.041], 0),
        (0.5, 64, [0.275, 0.225, 0.15, 0.305, 0.045], 3),
        (0.9, 64, [0.095, 0.165, 0.19, 0.501, 0.049], 3),
        (0.5, 1, [0.275, 0.30, 0.10, 0.305, 0.04], 3),
        (0.468084, 64, None, 0),
        (0.468086, 64, None, 3),
    ],
)
def test_worked_row(strength, candidates, expected, token):
    found = scores(strength, candidates)
    assert expected is None or found[0].tolist() == pytest.approx(expected, abs=1e-12)
    assert fused_choice(BASE, EXPERT, torch.tensor([strength]), candidates, torch.tensor([0])).tolist() == [token]


def test_a_token_outside_the_union_keeps_its_probability_and_can_win():
    expert = EXPERT.clone()
    expert[0, 3], expert[0, 4] = 0.53, 0.07
    assert scores(0.5, 1, expert=expert)[0].tolist() == pytest.approx([0.275, 0.30, 0.10, 0.295, 0.04])
    assert fused_choice(BASE, expert, torch.tensor([0.5]), 1, torch.tensor([0])).tolist() == [1]


def test_the_current_is_half_the_distance():
    assert disagreement(BASE, EXPERT).item() == pytest.approx(0.6)
    base, expert = rows(50, 40, 1), rows(50, 40, 2)
    found = disagreement(base, expert)
    torch.testing.assert_close(found, 1 - torch.minimum(base, expert).sum(-1))
    torch.testing.assert_close(found, disagreement(expert, base))
    assert disagreement(base, base).max() == 0
    assert disagreement(torch.eye(2)[:1], torch.eye(2)[1:]).item() == 1
    assert disagreement(torch.tensor([float("nan"), 1.0]), torch.ones(2)).isnan()


def test_with_the_whole_vocabulary_all_is_mixed():
    base, expert = rows(30, 40, 3), rows(30, 40, 4)
    torch.testing.assert_close(scores(0.3, 40, base, expert), 0.7 * base + 0.3 * expert)
    torch.testing.assert_close(scores(0.3, 4000, base, expert), 0.7 * base + 0.3 * expert)
    torch.testing.assert_close(scores(0.0, 3, base, expert), base)


def test_ties_stay_with_the_base():
    base = torch.tensor([[0.4, 0.4, 0.2]])
    for own in (0, 1):
        assert fused_choice(base, base, torch.tensor([0.5]), 2, torch.tensor([own])).tolist() == [own]


def test_two_token_rule_of_a_flip():
    """y beats x iff strength (p_e(y) - p_e(x)) > (1 - strength) (p_b(x) - p_b(y))."""
    base, expert = rows(500, 2, 5, 1.0), rows(500, 2, 6, 2.0)
    own = base.argmax(-1)
    flips = 0
    for strength in (0.05, 0.3, 0.5, 0.8):
        chosen = fused_choice(base, expert, torch.full((500,), strength, dtype=torch.float64), 2, own)
        x, y = own[:, None], 1 - own[:, None]
        gain = strength * (expert.gather(1, y) - expert.gather(1, x))
        loss = (1 - strength) * (base.gather(1, x) - base.gather(1, y))
        assert ((chosen != own) == (gain > loss)[:, 0]).all()
        flips += int((chosen != own).sum())
    assert flips > 200


@pytest.mark.parametrize(
    ("strength", "margin"), [(0.0, 0.0), (0.1, 1 / 9), (0.25, 1 / 3), (0.5, 1.0), (1.0, float("inf"))]
)
def test_deciding_margin(strength, margin):
    assert deciding_margin(strength) == pytest.approx(margin)


@pytest.mark.parametrize("strength", [0.02, 0.1, 0.3, 0.45])
@pytest.mark.parametrize("candidates", [1, 3, 12])
def test_no_expert_changes_a_decided_token(strength, candidates):
    """The hardest experts: all mass on one token, for every token."""
    base = rows(400, 12, 7, 1.5)
    margins = torch.full((400,), deciding_margin(strength), dtype=torch.float64)
    open_ = undecided(margin(base), margins)
    assert ((change_chance(margin(base), margins) > 0) == open_).all()
    assert 0 < int(open_.sum()) < 400
    changed = torch.zeros(400, dtype=torch.bool)
    for token in range(12):
        expert = torch.zeros_like(base)
        expert[:, token] = 1
        own = base.argmax(-1)
        changed |= fused_choice(base, expert, torch.full((400,), strength), candidates, own) != own
    assert not (changed & ~open_).any()
    # And it is tight where the union holds the runner-up: nearly all open tokens can be changed by some expert.
    assert int(changed.sum()) >= 0.95 * int(open_.sum())


def test_margins_and_the_chance_of_a_change():
    base = rows(50, 12, 8)
    first, second = base.topk(2).values.T
    torch.testing.assert_close(margin(base), first - second)
    chances = change_chance(torch.tensor([0.0, 1 / 18, 1 / 9, 0.5]), torch.full((4,), deciding_margin(0.1)))
    assert chances.tolist() == pytest.approx([0.4, 0.1, 0.0, 0.0], abs=1e-6)
    assert change_chance(torch.tensor([0.1]), torch.tensor([0.0])).tolist() == [0.0]


def test_probabilities_are_at_least_float32():
    half = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    assert probabilities(half).dtype == torch.float32 and probabilities(half.double()).dtype == torch.float64
