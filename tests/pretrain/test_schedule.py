"""Golden values of the learning-rate schedule."""

import dataclasses

import pytest

from pretrain.schedule import Schedule, learning_rate

GOLDEN = {
    "linear": [9.55e-4, 5.5e-4, 3.25e-4, 1.45e-4],
    "exponential": [9.387e-4, 4.728e-4, 2.703e-4, 1.317e-4],
    "minus_sqrt": [7.988e-4, 3.636e-4, 2.206e-4, 1.228e-4],
    "cosine": [9.945e-4, 5.5e-4, 2.318e-4, 1.055e-4],
}


def schedule(style="WSD", wsd_style="linear"):
    return Schedule(1e-3, 1e-4, style, wsd_style, warmup_updates=10, decay_updates=100, wsd_decay_updates=20)


@pytest.mark.parametrize("wsd_style", GOLDEN)
def test_wsd_golden_values(wsd_style):
    rates = [learning_rate(update, schedule(wsd_style=wsd_style)) for update in (81, 90, 95, 99)]
    assert rates == pytest.approx(GOLDEN[wsd_style], rel=5e-4)


@pytest.mark.parametrize("style", ["WSD", "cosine", "linear", "constant"])
def test_warm_up_is_linear_and_the_end_is_the_minimum(style):
    assert [learning_rate(update, schedule(style)) for update in (1, 5, 10)] == pytest.approx([1e-4, 5e-4, 1e-3])
    end = 1e-3 if style == "constant" else 1e-4
    assert [learning_rate(update, schedule(style)) for update in (100, 101, 500)] == pytest.approx([end] * 3)


@pytest.mark.parametrize("wsd_style", GOLDEN)
def test_wsd_without_decay_keeps_the_peak_to_its_last_update(wsd_style):
    flat = dataclasses.replace(schedule(wsd_style=wsd_style), wsd_decay_updates=0, min_lr=0.0)
    assert [learning_rate(update, flat) for update in (11, 99, 100, 101)] == [1e-3, 1e-3, 1e-3, 0]


def test_shapes_between_warm_up_and_end():
    assert [learning_rate(update, schedule("WSD")) for update in (11, 80)] == [1e-3, 1e-3]
    assert learning_rate(55, schedule("cosine")) == pytest.approx(5.5e-4)
    assert learning_rate(28, schedule("linear")) == pytest.approx(1e-3 - 0.2 * 9e-4)
    assert learning_rate(28, schedule("cosine")) == pytest.approx(1e-4 + 9e-4 * 0.9045085)
