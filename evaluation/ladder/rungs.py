"""The rungs of the ladder, in order, and what the paper found on each (Safety Pretraining, arXiv 2504.16980)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import yaml

# When attack success is measured: the base model, after instruction tuning, after benign tuning on top of that.
COLUMNS: Final = ("base", "instruction", "benign")
COLUMN_TITLES: Final = {"base": "base", "instruction": "instruction-tuned", "benign": "after benign tuning"}


@dataclass(frozen=True)
class Rung:
    """`adds`: the source of tokens that this rung has beside those of the rungs below it (`raw` stands apart: it trains on all
    originals, unsafe ones untagged). `decodes`: the rung whose models it decodes with Safe Beam; None: it is trained."""

    name: str
    title: str
    adds: str | None = None
    decodes: str | None = None


RUNGS: Final = (
    Rung("raw", "raw", "unsafe"),
    Rung("score_0", "score 0 only"),
    Rung("rephrased", "+ rephrased", "rephrased"),
    Rung("refusal", "+ refusals", "refusal"),
    Rung("moral", "+ moral education", "moral"),
    Rung("tags", "+ tagged originals", "tagged"),
    Rung("safe_beam", "+ Safe Beam", decodes="tags"),
)
RUNG_OF: Final = {rung.name: rung for rung in RUNGS}


def rung_sources(name: str, chosen: Sequence[str]) -> list[str]:
    """Sources of tokens that a trained rung reads, of a ladder of the `chosen` rungs: score-0 text, and what this rung and
    the chosen ones below it add. A rung that is left out leaves its source out of those above it."""
    if name == "raw":
        return ["safe", "unsafe"]
    below = [rung for rung in RUNGS if rung.name in chosen and rung.name != "raw"]
    below = below[: [rung.name for rung in below].index(name) + 1]
    return ["safe", *(rung.adds for rung in below if rung.adds is not None)]


def source_weights(sources: Sequence[str], tokens: dict[str, int], shares: dict[str, float]) -> dict[str, float]:
    """Share of a rung's tokens that each source has, summing to 1: of those in `shares` the given one; the others divide the
    rest by their numbers of `tokens`.

    Raises ValueError where the given shares leave nothing for the others.
    """
    given = {name: shares[name] for name in sources if name in shares}
    others = [name for name in sources if name not in given]
    rest = 1.0 - sum(given.values())
    total = sum(tokens[name] for name in others)
    if rest <= 0 or not total:
        raise ValueError(f"the shares {given} leave nothing for {', '.join(others) or 'any other source'}")
    return {name: given.get(name, rest * tokens[name] / total) for name in sources}


@cache
def paper_rates() -> dict[str, dict[str, float]]:
    """The published attack success rates in %, by rung and column."""
    text = Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))
