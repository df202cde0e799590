"""What a defended answer was, and why: the gate's potential, firing and the strength at every token, ready for JSON or a plot."""

from dataclasses import dataclass, field
from typing import Any

from decoding.ngsd.risk import Rating


@dataclass(frozen=True)
class TokenTrace:
    """One token. `current`: disagreement of base and expert; `potential`: of the gate, before a reset; `base_token`: what
    the base alone would have chosen here."""

    token: int
    base_token: int
    current: float
    potential: float
    fired: bool


@dataclass(frozen=True)
class Work:
    """Of the batch that an answer was part of: forward passes, columns of tokens fed, seconds. `rolled_back`: tokens of all
    rows that the base had drafted in vain."""

    base_passes: int
    expert_passes: int
    base_tokens: int
    expert_tokens: int
    rolled_back: int
    base_seconds: float
    expert_seconds: float
    fusion_seconds: float


@dataclass
class NgsdAnswer:
    """An answer. `ended_by`: "end" or "tag" (an end token or the harmfulness tag, the last of `tokens` and not in `text`),
    "length", "stop rule".

    `rating`, `risk`: None where the strength was given. `stop_reason`: what triggered the stop rule, if anything did.
    """

    text: str
    tokens: list[int]
    strength: float
    threshold: float
    ended_by: str
    rating: Rating | None
    risk: float | None
    rating_seconds: float
    work: Work
    trace: list[TokenTrace] = field(default_factory=list)
    stop_reason: str | None = None

    def fire_share(self) -> float:
        """The share of tokens at which the gate opened, in [0, 1]; 0 without tokens."""
        return sum(step.fired for step in self.trace) / max(1, len(self.trace))

    def changed_share(self) -> float:
        """The share of tokens that are not the base's own choice."""
        return sum(step.token != step.base_token for step in self.trace) / max(1, len(self.trace))

    def to_json(self, tokenizer: Any) -> dict[str, Any]:
        """Plain values: `text`, `strength`, `risk`, `rating`, `threshold`, `ended_by`, and `trace` as columns, one value a token:
        `token` (as text), `base_token`, `current`, `potential`, `fired`, `strength`."""
        trace = {
            "token": [tokenizer.decode([step.token]) for step in self.trace],
            "base_token": [tokenizer.decode([step.base_token]) for step in self.trace],
            "current": [round(step.current, 6) for step in self.trace],
            "potential": [round(step.potential, 6) for step in self.trace],
            "fired": [step.fired for step in self.trace],
            "strength": [self.strength if step.fired else 0.0 for step in self.trace],
        }
        rating = None if self.rating is None else dict(zip("SAET", self.rating.axes(), strict=True))
        return {
            "text": self.text,
            "strength": self.strength,
            "risk": self.risk,
            "rating": rating,
            "rating_read": None if self.rating is None else self.rating.parsed,
            "threshold": self.threshold,
            "ended_by": self.ended_by,
            "stop_reason": self.stop_reason,
            "fire_share": round(self.fire_share(), 6),
            "trace": trace,
        }
