"""Megatron-core's scheduler as the judge of ours. Skipped where `megatron-core` is not installed.

To run it: `pip install --no-deps megatron-core==0.16.1` on Python 3.11, in an environment of its own.
"""

import pytest
import torch

from pretrain.schedule import Schedule, learning_rate

megatron = pytest.importorskip("megatron.core.optimizer_param_scheduler", exc_type=ImportError)


@pytest.mark.parametrize("style", ["WSD", "cosine", "linear", "constant"])
@pytest.mark.parametrize("wsd_style", ["linear", "cosine", "exponential", "minus_sqrt"])
@pytest.mark.parametrize(
    ("warmup", "decay", "wsd_decay"), [(10, 100, 20), (0, 37, 5), (3, 64, 61), (4, 30, 0), (0, 9, 0)]
)
def test_rates_are_equal(style, wsd_style, warmup, decay, wsd_decay):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    # Both in samples of a batch of 8 there, in updates here.
    theirs = megatron.OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=1e-3,
        min_lr=1e-4,
        lr_warmup_steps=8 * warmup,
        lr_decay_steps=8 * decay,
        lr_decay_style=style,
        start_wd=0.01,
        end_wd=0.01,
        wd_incr_steps=0,
        wd_incr_style="constant",
        wsd_decay_steps=8 * wsd_decay,
        lr_wsd_decay_style=wsd_style,
    )
    ours = Schedule(1e-3, 1e-4, style, wsd_style, warmup, decay, wsd_decay)
    for update in range(1, decay + 5):
        theirs.step(8)
        assert learning_rate(update, ours) == pytest.approx(theirs.get_lr({}), rel=1e-12), update
