"""The learning rate as a function of the update: linear warm-up, then WSD, cosine, linear or constant."""

import math
from dataclasses import dataclass
from typing import Literal

DecayStyle = Literal["WSD", "cosine", "linear", "constant"]
WsdDecayStyle = Literal["linear", "cosine", "exponential", "minus_sqrt"]


@dataclass(frozen=True)
class Schedule:
    """`lr` and `min_lr` are the peak and the end of the decay; the rest is counted in updates of the weights.

    Fractions come of schedules that a recipe counts in samples. `decay_updates` is the whole schedule, warm-up included; `wsd_decay_updates` the share of it at its end in which
    WSD (warm-up, stable, decay) decays.
    """

    lr: float
    min_lr: float
    style: DecayStyle
    wsd_style: WsdDecayStyle
    warmup_updates: float
    decay_updates: float
    wsd_decay_updates: float


def remaining_share(progress: float, style: Literal[DecayStyle, WsdDecayStyle]) -> float:
    """What is left of the way from peak to minimum after `progress` (0 to 1) of a decay: 1 at its start, 0 at its end."""
    if style == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if style == "exponential":
        return 2 * 0.5**progress - 1
    if style == "minus_sqrt":
        return 1 - math.sqrt(progress)
    if style == "constant":
        return 1.0
    return 1 - progress


def learning_rate(update: int, schedule: Schedule) -> float:
    """Learning rate of the `update`-th update (the first is 1); after the end of the decay, the minimum.

    A decay reaches the minimum with its last update; WSD without any decay keeps the peak until then.

    Skipped updates do not count, so that they move the data but not the schedule. Equal to the rate that Megatron's
    scheduler holds after `update` steps, the one in its log line; Megatron applies it one update later, and its first
    update has the rate 0.
    """
    if update <= schedule.warmup_updates:
        return schedule.lr * update / schedule.warmup_updates
    if schedule.style == "constant":
        return schedule.lr
    if update > schedule.decay_updates:
        return schedule.min_lr
    start = schedule.warmup_updates
    style: Literal[DecayStyle, WsdDecayStyle] = schedule.style
    if schedule.style == "WSD":
        start, style = schedule.decay_updates - schedule.wsd_decay_updates, schedule.wsd_style
        if update <= start:
            return schedule.lr
    progress = (update - start) / (schedule.decay_updates - start)
    return schedule.min_lr + remaining_share(progress, style) * (schedule.lr - schedule.min_lr)
