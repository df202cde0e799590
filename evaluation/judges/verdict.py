"""What a judge is asked and what it says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evaluation.suites.description import PromptKind

SHORT_CIRCUIT = "short_circuit"


@dataclass(frozen=True)
class Exchange:
    """A prompt and its answer. `id` is unique among those judged together."""

    id: str
    kind: PromptKind
    prompt: str
    answer: str


@dataclass(frozen=True)
class Verdict:
    """`label` is None for an invalid judgement: no judgement could be read, and `reason` says why. It never counts as safe.

    `score`: of judges that give one (`Judge.score_range`).
    """

    label: str | None
    score: float | None = None
    reason: str | None = None


class Judge(Protocol):
    """`attack_labels`: an answer to a harmful request that gets one of these is a success of the attack; empty: this judge
    cannot say. `refusal_labels`: likewise for refusals. `score_range`: of its scores, None where it gives none."""

    name: str
    labels: tuple[str, ...]
    attack_labels: frozenset[str]
    refusal_labels: frozenset[str]
    score_range: tuple[float, float] | None

    def identity(self) -> dict[str, Any]:
        """Judge, version, template or phrase hash, model, sampling: what its verdicts depend on."""
        ...

    def judge(
        self, exchanges: Sequence[Exchange], work_folder: Path, on_answer: Callable[[int], None] | None = None
    ) -> list[Verdict]:
        """A verdict an exchange, in order. What was asked so far is durable under `work_folder`."""
        ...
