"""What the evaluations of one model's seeds say together: the mean over seeds, with an interval over prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from evaluation.judges.verdict import SHORT_CIRCUIT
from evaluation.measures.intervals import bootstrap_mean, wilson_interval
from evaluation.measures.paired_tests import PairedTest, paired_test
from evaluation.results import Result

# measure -> the prompts that it is of, and which of a judge's labels count
MEASURES: Final = {
    "attack_success_rate": ("harmful", "attack_labels"),
    "over_refusal_rate": ("benign", "refusal_labels"),
}
Pair = tuple[str, str, str]


@dataclass(frozen=True)
class SeedRate:
    """One seed's share of valid judgements that count, Wilson interval. `ended_by_tag`: answers that the harmfulness tag
    ended, which are in the share and do not count."""

    value: float
    low: float
    high: float
    valid: int
    invalid: int
    ended_by_tag: int


@dataclass(frozen=True)
class Cell:
    """`value`: mean over prompts of the mean over seeds, with a bootstrap interval [`low`, `high`] over prompts (Wilson's
    where all prompts have the same mean): it says nothing of other seeds, of which `seeds` holds each one's own rate.
    `by_prompt`: the mean over seeds of each prompt."""

    value: float
    low: float
    high: float
    prompts: int
    seeds: dict[str, SeedRate]
    by_prompt: dict[Pair, float] = field(repr=False, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Plain values, without those of single prompts; nan, of a seed without a valid judgement, as None."""
        plain = {"value": self.value, "low": self.low, "high": self.high, "prompts": self.prompts}
        seeds = {seed: {k: None if v != v else v for k, v in asdict(rate).items()} for seed, rate in self.seeds.items()}
        return {**plain, "seeds": seeds}


def ladder_cell(results: Mapping[str, Result], judge: str, attack: str, measure: str) -> Cell | None:
    """The cell of `results`, one a seed, over the prompts of all suites. None where no prompt has a valid judgement."""
    kind, key = MEASURES[measure]
    values: dict[Pair, list[float]] = {}
    seeds = {}
    for seed, result in results.items():
        labels = set(result.summary["judges"][judge][key])
        if not labels:
            return None
        said = {
            item.pair: item.verdicts[judge].label
            for item in result.items
            if item.kind == kind and item.attack == attack
        }
        found = {pair: float(label in labels) for pair, label in said.items() if label is not None}
        for pair, value in found.items():
            values.setdefault(pair, []).append(value)
        rate = wilson_interval(int(sum(found.values())), len(found))
        short = sum(label == SHORT_CIRCUIT for label in said.values())
        seeds[seed] = SeedRate(rate.value, rate.low, rate.high, len(found), len(said) - len(found), short)
    if not values:
        return None
    by_prompt = {pair: sum(found) / len(found) for pair, found in sorted(values.items())}
    mean = bootstrap_mean(list(by_prompt.values()), value_range=(0, 1))
    return Cell(mean.value, mean.low, mean.high, mean.n, seeds, by_prompt)


def step(below: Cell, cell: Cell) -> PairedTest:
    """What changes from one cell to the next, on the prompts that both have; no p value where averages of seeds are not 0 or 1."""
    pairs = [pair for pair in below.by_prompt if pair in cell.by_prompt]
    return paired_test([below.by_prompt[p] for p in pairs], [cell.by_prompt[p] for p in pairs], value_range=(0, 1))


def judges_of(results: Sequence[Result]) -> list[tuple[str, str]]:
    """(judge, attack) of all results that can say what an attack's success is, in their order."""
    found: dict[tuple[str, str], None] = {}
    for result in results:
        attacks = dict.fromkeys(item.attack for item in result.items)
        for judge, facts in result.summary["judges"].items():
            if facts["attack_labels"]:
                found |= dict.fromkeys((judge, attack) for attack in attacks)
    return list(found)
