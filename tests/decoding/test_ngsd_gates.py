"""Gates: the vectors and closed forms of NGSD's description, resets, wrong constants."""

import math

import numpy as np
import pytest
import torch

from classifiers.errors import RecipeError
from decoding.ngsd import AdamGate, EmaGate, LeakyGate

# A stream of currents from the method's published gate logs, and what each gate makes of it.
CURRENTS = [0.625736, 0.008257, 0.945851, 0.185121, 0.043990, 0.049679, 0.439358, 0.010591]
EMA = [0.312868, 0.160563, 0.553207, 0.369164, 0.206577, 0.128128, 0.283743, 0.147167]
ADAM = [0.500000, 0.589912, 0.706300, 0.732535, 0.697146, 0.644768, 0.654445, 0.622079]
LEAKY = [0.625736, 0.555776, 1.432155, 0.937002, 0.863867, 0.805563, 1.144225, 0.611310]


def potentials(gate, currents):
    state, seen, fires = gate.initial(1), [], []
    for step, current in enumerate(currents, 1):
        state, potential, fired = gate.step(state, torch.tensor([current], dtype=torch.float64))
        seen.append(float(potential))
        fires += [step] if fired else []
    return seen, fires, state


@pytest.mark.parametrize(
    ("gate", "expected", "fires"),
    [(EmaGate(), EMA, [3]), (AdamGate(), ADAM, list(range(2, 9))), (LeakyGate(), LEAKY, [3, 7])],
)
def test_published_stream(gate, expected, fires):
    seen, fired, _ = potentials(gate, CURRENTS)
    assert np.abs(np.array(seen) - expected).max() < 1e-5
    # The first moment over the root of the second is 1 at the first step: Adam's potential is 0.5 up to its epsilon.
    assert [step for step in fired if not (step == 1 and isinstance(gate, AdamGate))] == fires


@pytest.mark.parametrize(("step", "after"), [(3, 0.859293), (7, 0.686535)])
def test_soft_reset_of_the_published_stream(step, after):
    assert potentials(LeakyGate(), CURRENTS[:step])[2].item() == pytest.approx(after, abs=1e-6)


def test_hard_reset_goes_back_to_rest():
    gate = LeakyGate(soft_reset=0.0, rest=0.1)
    state, potential, fired = gate.step(gate.initial(2), torch.tensor([1.0, 0.5], dtype=torch.float64))
    assert fired.tolist() == [True, False] and state[:, 0].tolist() == [0.1, pytest.approx(0.5875)]
    assert potential.tolist() == pytest.approx([1.0875, 0.5875])


@pytest.mark.parametrize(
    ("current", "first"),
    [(0.12, None), (0.125, None), (0.13, 25), (0.15, 14), (0.2, 8), (0.25, 6), (0.3, 5), (0.34, 4), (0.5, 3), (0.75, 2), (1, 1)],
)  # fmt: skip
def test_first_fire_under_a_constant_current(current, first):
    fires = potentials(LeakyGate(), [current] * 300)[1]
    assert (fires[0] if fires else None) == first
    if first is not None:
        assert first == max(1, math.ceil(math.log(1 - 1 / (8 * current)) / math.log(7 / 8) - 1e-9))


@pytest.mark.parametrize(
    ("current", "share"),
    [(0.13, 0.056), (0.15, 0.111), (0.2, 0.25), (0.25, 1 / 3), (0.3, 0.5), (0.34, 0.5), (0.4, 2 / 3), (0.476, 1.0), (0.9, 1.0)],
)  # fmt: skip
def test_steady_share_of_fires(current, share):
    fires = [step for step in potentials(LeakyGate(), [current] * 2100)[1] if step > 300]
    assert len(fires) / 1800 == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("gate", [LeakyGate(), EmaGate(), AdamGate()])
def test_rows_are_independent(gate):
    currents = torch.rand(3, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    state = gate.initial(3)
    together = []
    for column in currents.T:
        state, potential, _ = gate.step(state, column)
        together.append(potential)
    for row in range(3):
        alone = potentials(gate, currents[row].tolist())[0]
        assert alone == pytest.approx([float(p[row]) for p in together], abs=1e-12)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LeakyGate(tau=0.5), "leaky gate: tau is 0.5 .expected at least 1."),
        (lambda: LeakyGate(soft_reset=1.0), "soft_reset 1.0 .expected 0 to below 1."),
        (lambda: EmaGate(decay=1.0), "EMA gate: decay is 1.0"),
        (lambda: AdamGate(beta2=1.5), "Adam gate: .*beta2 1.5"),
    ],
)
def test_wrong_constants(make, said):
    with pytest.raises(RecipeError, match=said):
        make()
