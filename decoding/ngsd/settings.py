"""How NGSD decodes."""

from dataclasses import dataclass, field

from classifiers.errors import RecipeError
from decoding.ngsd.early_stop import EarlyStop
from decoding.ngsd.gates import Gate, LeakyGate
from decoding.ngsd.risk import RiskRule, checked_strength


@dataclass(frozen=True)
class Deferral:
    """When the expert is asked. Texts and traces are the same for every choice; only the cost differs.

    For strengths below 0.5 a token whose base margin reaches strength / (1 - strength) cannot be changed by any expert, so
    the base goes on and the expert reads the queue later, in one pass. max_undecided 0 asks as soon as the margin is
    smaller. Above 0 the base goes on past so many tokens that the expert might change, as long as the pass that is saved
    is worth more than what would be drafted in vain (`fusion.change_chance`, and the models' sizes); where the expert does
    change a token, what came after it is taken back. max_queue: tokens that wait, at most; their distributions are kept
    (three times rows x max_queue x vocabulary floats while the expert reads).
    """

    max_queue: int = 16
    max_undecided: int = 8

    def __post_init__(self) -> None:
        if self.max_queue < 1 or self.max_undecided < 0:
            raise RecipeError(
                f"deferral: max_queue is {self.max_queue} (expected at least 1), max_undecided {self.max_undecided} "
                "(expected at least 0)"
            )


@dataclass(frozen=True)
class NgsdSettings:
    """strength: of every prompt; None: from the base's own rating of the request. deferral None: the expert reads every token
    at once. candidates: K of the union. max_rows: of a batch. Constants of arXiv 2602.02027's released code where it has them.
    """

    max_new_tokens: int = 256
    strength: float | None = None
    gate: Gate = field(default_factory=LeakyGate)
    candidates: int = 64
    deferral: Deferral | None = field(default_factory=Deferral)
    early_stop: EarlyStop | None = field(default_factory=EarlyStop)
    risk: RiskRule = field(default_factory=RiskRule)
    rating_tokens: int = 64
    max_rows: int = 32

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "candidates", "rating_tokens", "max_rows"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}: expected at least 1")
        if self.strength is not None:
            checked_strength(self.strength)
