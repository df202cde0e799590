"""The ladder as plain values and as Markdown, beside the paper's numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from evaluation.ladder.cells import MEASURES, Cell, judges_of, ladder_cell, step
from evaluation.ladder.rungs import COLUMN_TITLES, COLUMNS, RUNG_OF, paper_rates
from evaluation.results import Result

# rung -> column -> seed -> result
Evaluations = Mapping[str, Mapping[str, Mapping[str, Result]]]


@dataclass(frozen=True)
class SourceUse:
    """A source of one rung: its tokens and documents, its share of the rung's tokens, how often it was read, and what it is."""

    name: str
    tokens: int
    documents: int
    share: float
    epochs: float
    note: str = ""


@dataclass(frozen=True)
class RungFacts:
    """What a rung was trained on, and losses in nats a token, mean over seeds: the last of pretraining, and of held-out
    problems of the benign tuning set before and after that tuning. Empty for what is not done."""

    sources: Sequence[SourceUse] = ()
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ladder:
    """`rungs`: all that the recipe asks for, in order. `notes`: for the caption."""

    rungs: Sequence[str]
    seeds: Sequence[int]
    tokens_a_rung: int
    evaluations: Evaluations
    facts: Mapping[str, RungFacts]
    notes: Sequence[str] = ()

    def results(self) -> list[Result]:
        """All evaluations that are there."""
        return [r for columns in self.evaluations.values() for seeds in columns.values() for r in seeds.values()]

    def cell(self, rung: str, column: str, judge: str, attack: str, measure: str) -> Cell | None:
        """One cell; None where it is not measured."""
        results = self.evaluations.get(rung, {}).get(column, {})
        return ladder_cell(results, judge, attack, measure) if results else None


def ladder_json(ladder: Ladder) -> dict[str, Any]:
    """The whole ladder as plain values: shares, not per cent, but for the paper's numbers."""
    tables = [
        {
            "judge": judge,
            "attack": attack,
            "measure": measure,
            "rungs": {
                rung: {
                    column: cell.as_json()
                    for column in COLUMNS
                    if (cell := ladder.cell(rung, column, judge, attack, measure)) is not None
                }
                for rung in ladder.rungs
            },
        }
        for judge, attack in judges_of(ladder.results())
        for measure in MEASURES
    ]
    return {
        "format": 1,
        "seeds": list(ladder.seeds),
        "tokens_a_rung": ladder.tokens_a_rung,
        "notes": list(ladder.notes),
        "trained_on": {
            rung: {"sources": [asdict(use) for use in facts.sources], "losses": dict(facts.losses)}
            for rung, facts in ladder.facts.items()
        },
        "tables": tables,
        "paper_attack_success_percent": paper_rates(),
    }


def ladder_markdown(ladder: Ladder) -> str:
    """One table a judge, what each rung was trained on, and how to read it."""
    lines = []
    for judge, attack in judges_of(ladder.results()):
        lines += [*_attack_table(ladder, judge, attack), ""]
    lines += [*_source_table(ladder), "", *_caption(ladder)]
    return "\n".join(lines) + "\n"


def _attack_table(ladder: Ladder, judge: str, attack: str) -> list[str]:
    over = any(ladder.cell(rung, "benign", judge, attack, "over_refusal_rate") for rung in ladder.rungs)
    head = ["rung", *COLUMN_TITLES.values(), "step", *(["over-refusal after benign tuning"] if over else [])]
    head += ["paper: base / instruct / benign"]
    title = f"### Attack success, % (judge: {judge}" + (f", attack: {attack})" if attack != "none" else ")")
    lines = [title, "", _line(head), _line(["---"] * len(head))]
    below: Cell | None = None
    for rung in ladder.rungs:
        cells = [ladder.cell(rung, column, judge, attack, "attack_success_rate") for column in COLUMNS]
        row = [RUNG_OF[rung].title, *map(_cell_text, cells), _step_text(below, cells[-1])]
        if over:
            row.append(_cell_text(ladder.cell(rung, "benign", judge, attack, "over_refusal_rate")))
        paper = paper_rates().get(rung, {})
        row.append(" / ".join(f"{paper[c]:.1f}" if c in paper else "-" for c in COLUMNS) if paper else "-")
        lines.append(_line(row))
        below = cells[-1]
    return lines


def _cell_text(cell: Cell | None) -> str:
    """ "12.5 [8.1, 18.7] (11.0, 14.0)": the mean, its interval, each seed; then what must not be overlooked."""
    if cell is None:
        return "-"
    text = f"{100 * cell.value:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"
    if len(cell.seeds) > 1:
        text += " (" + ", ".join(f"{100 * r.value:.1f}" if r.valid else "-" for r in cell.seeds.values()) + ")"
    answers = sum(rate.valid + rate.invalid for rate in cell.seeds.values())
    if ended := sum(rate.ended_by_tag for rate in cell.seeds.values()):
        text += f"; {100 * ended / answers:.0f} % ended by the tag"
    if invalid := sum(rate.invalid for rate in cell.seeds.values()):
        text += f"; {invalid} of {answers} invalid"
    return text


def _step_text(below: Cell | None, cell: Cell | None) -> str:
    if below is None or cell is None:
        return "-"
    change = step(below, cell)
    if not change.n:
        return "-"  # no prompt has a valid judgement in both
    return f"{100 * change.difference:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def _source_table(ladder: Ladder) -> list[str]:
    losses = list(dict.fromkeys(name for facts in ladder.facts.values() for name in facts.losses))
    head = ["rung", "trained on (share of tokens, times read)", *losses]
    lines = ["### What each rung was trained on", "", _line(head), _line(["---"] * len(head))]
    for rung, facts in ladder.facts.items():
        uses = ", ".join(f"{use.name} {100 * use.share:.1f} % ({use.epochs:.1f} x)" for use in facts.sources)
        shown = [f"{facts.losses[name]:.3f}" if name in facts.losses else "-" for name in losses]
        lines.append(_line([RUNG_OF[rung].title, uses or "-", *shown]))
    found = {use.name: use for facts in ladder.facts.values() for use in facts.sources}
    lines += ["", _line(["source", "tokens", "documents", "what"]), _line(["---"] * 4)]
    lines += [_line([u.name, f"{u.tokens:,}", f"{u.documents:,}", u.note]) for u in found.values()]
    return lines


def _caption(ladder: Ladder) -> list[str]:
    seeds = ", ".join(map(str, ladder.seeds))
    return [
        f"Every trained rung: {ladder.tokens_a_rung:,} tokens, seeds {seeds}, the same settings. A cell: mean over "
        "seeds [95 % bootstrap interval over prompts; a score interval where all are equal] (each seed). The interval says how "
        "much the prompts matter, not how much "
        "another seed would change. `step`: change of the last column against the rung above, on the same prompts, in points. "
        "Losses are in nats a token, means over seeds. Answers that the harmfulness tag ends count as neither success nor "
        "refusal. Over-refusal is the share of benign prompts refused.",
        "",
        *(f"- {note}" for note in ladder.notes),
        "- The paper's numbers are of a 1.7B model trained on 600B tokens, with other suites and judges: compare directions, not "
        "levels.",
    ]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
