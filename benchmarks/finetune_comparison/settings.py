"""What the comparisons share: folders, sizes, seeds; and the arms that are compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from finetune.safety_token_regularization import Space

ROOT: Final = Path(__file__).resolve().parents[2]
RECIPES: Final = ROOT / "recipes"
OWN_TEXTS: Final = ROOT / "finetune" / "data"
SUITES: Final = ("advbench", "jailbreakbench", "harmbench_test")

# anchored: STR on refusals that come along, not on the rows that are learnt; anchored_random: its control; mixed: as many refusals
# learnt like the rest.
ArmKind = Literal["plain", "str", "random", "anchored", "anchored_random", "mixed"]
# Refusals for each row that is learnt, in the arms that have such.
ANCHOR_SHARE: Final = 0.25


@dataclass(frozen=True)
class Settings:
    """`output`: folder of one comparison. `suites`: folder with local copies of `suite_names`. `prompts`: harmful prompts
    that are drawn from them, in equal parts. `overrides`: `key=value` for every training recipe."""

    output: Path
    suites: Path | None
    suite_names: tuple[str, ...] = SUITES
    base: str = "embedded:SmolLM2-135M-Instruct"
    seeds: tuple[int, ...] = (1, 2)
    prompts: int = 150
    harmless: int = 104
    new_tokens: int = 32
    threads: int = 2
    precision: str = "bf16"
    overrides: tuple[str, ...] = ()

    def common(self, output: Path) -> list[str]:
        """What every training recipe gets."""
        return [f"output={output}", f"threads={self.threads}", f"precision={self.precision}"]


@dataclass(frozen=True)
class Arm:
    """One benign tuning. `weight` and `space`: of the penalty, None and raw where there is none; `rate`: a learning rate of the sweep, None: the usual."""

    kind: ArmKind
    seed: int
    weight: float | None = None
    space: Space = "raw"
    rate: float | None = None

    @property
    def label(self) -> str:
        """What runs of several seeds have in common."""
        space = "" if self.space == "raw" else f"-{self.space}"
        weight = "" if self.weight is None else f"-w{self.weight:g}"
        rate = "" if self.rate is None else f"-lr{self.rate:g}"
        return f"{self.kind}{space}{weight}{rate}"

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.label}-seed{self.seed}"


@dataclass(frozen=True)
class SteeringSizes:
    """Prompts of training and of the direction (train and validation, of either kind); answers of an update and to a prompt.

    `coefficient`: the direction is added so many times. An eroded model refuses a quarter of the prompts by its first token, and
    only these give the direction, so that most prompts go there; and what they give is weak.
    """

    prompts: int = 28
    direction: int = 46
    validation: int = 24
    samples: int = 4
    batch: int = 8
    epochs: float = 2.0
    coefficient: float = 2.0
    answer_tokens: int = 24
    rate: float = 3e-4

    @property
    def harmful(self) -> int:
        """Harmful prompts that are used at all."""
        return self.prompts + self.direction + self.validation
