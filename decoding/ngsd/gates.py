"""Gates: from the disagreement of base and expert, step by step, to the decision whether the expert may correct this token.

A gate is a frozen set of constants. Its state is a tensor [rows, width] that the caller holds, one row an answer, so that
nothing is left over from one prompt to the next. `step` is pure: (state, current) -> (new state, potential, fired).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

from classifiers.errors import RecipeError

# state [rows, width], potential [rows] (before any reset), fired [rows] (bool)
GateStep = tuple[Any, Any, Any]


class Gate(Protocol):
    """What a gate of one's own needs."""

    @property
    def threshold(self) -> float: ...

    def initial(self, rows: int) -> Any: ...

    def step(self, state: Any, current: Any) -> GateStep: ...


@dataclass(frozen=True)
class LeakyGate:
    """Leaky integrate-and-fire: v <- (1 - 1/tau) v + I; fires if v >= threshold; then v <- rest + soft_reset (v - rest).

    NGSD (arXiv 2602.02027); constants of its released code. `soft_reset` 0 is the hard reset of the paper's pseudo-code.
    It never fires under a constant current I <= threshold / tau.
    """

    tau: float = 8.0
    threshold: float = 1.0
    rest: float = 0.0
    soft_reset: float = 0.6

    def __post_init__(self) -> None:
        if not self.tau >= 1 or not 0 <= self.soft_reset < 1 or math.isnan(self.threshold):
            raise RecipeError(
                f"leaky gate: tau is {self.tau} (expected at least 1), soft_reset {self.soft_reset} (expected 0 to below 1), "
                f"threshold {self.threshold}"
            )

    def initial(self, rows: int) -> Any:
        """[rows, 1]: the potentials, at rest."""
        import torch

        return torch.full((rows, 1), self.rest, dtype=torch.float64)

    def step(self, state: Any, current: Any) -> GateStep:
        """current [rows] in [0, 1]."""
        import torch

        potential = (1 - 1 / self.tau) * state[:, 0] + current
        fired = potential >= self.threshold
        after = torch.where(fired, self.rest + self.soft_reset * (potential - self.rest), potential)
        return after[:, None], potential, fired


@dataclass(frozen=True)
class EmaGate:
    """Exponential moving average: e <- decay e + (1 - decay) I; fires if e >= threshold; no reset.

    A rival of the leaky gate in NGSD, recovered from the logs of its release, which do not tell 0.5 from 0.75.
    """

    decay: float = 0.5
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1 or math.isnan(self.threshold):
            raise RecipeError(f"EMA gate: decay is {self.decay} (expected 0 to below 1), threshold {self.threshold}")

    def initial(self, rows: int) -> Any:
        """[rows, 1]: the averages."""
        import torch

        return torch.zeros((rows, 1), dtype=torch.float64)

    def step(self, state: Any, current: Any) -> GateStep:
        """current [rows] in [0, 1]."""
        average = self.decay * state[:, 0] + (1 - self.decay) * current
        return average[:, None], average, average >= self.threshold


@dataclass(frozen=True)
class AdamGate:
    """An average of Adam's update: m and s are the bias-corrected first and second moments of I, u = m / (sqrt(s) + 1e-8),
    g <- decay g + (1 - decay) u; fires if g >= threshold; no reset.

    A rival of the leaky gate in NGSD, recovered from the logs of its release. u is near 1 as soon as I changes little,
    however small I is: at I = 0 throughout it is 0, but a constant 0.01 opens this gate.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    decay: float = 0.5
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not all(0 <= value < 1 for value in (self.beta1, self.beta2, self.decay)) or math.isnan(self.threshold):
            raise RecipeError(
                f"Adam gate: beta1 {self.beta1}, beta2 {self.beta2}, decay {self.decay} (each expected 0 to below 1), "
                f"threshold {self.threshold}"
            )

    def initial(self, rows: int) -> Any:
        """[rows, 4]: first moment, second moment, g, number of steps."""
        import torch

        return torch.zeros((rows, 4), dtype=torch.float64)

    def step(self, state: Any, current: Any) -> GateStep:
        """current [rows] in [0, 1]."""
        import torch

        first = self.beta1 * state[:, 0] + (1 - self.beta1) * current
        second = self.beta2 * state[:, 1] + (1 - self.beta2) * current**2
        steps = state[:, 3] + 1
        update = (first / (1 - self.beta1**steps)) / ((second / (1 - self.beta2**steps)).sqrt() + 1e-8)
        potential = self.decay * state[:, 2] + (1 - self.decay) * update
        return torch.stack([first, second, potential, steps], dim=1), potential, potential >= self.threshold
