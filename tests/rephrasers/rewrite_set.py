"""The hand-written rewrites of `rewrites/*.yaml` as drafts, and how well verification tells good from bad ones."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import yaml

from rephrasers.recontextualise import parse_text
from rephrasers.refuse import parse_dialogue, render_dialogue
from rephrasers.verify import Draft, Verdict, rule_of

FOLDER = Path(__file__).with_name("rewrites")
KINDS = {"refusal": "refusal", "moral": "moral"}
STYLES = {"refusal": "refuse", "moral": "moralise"}


@dataclass(frozen=True)
class Rewrite:
    """One entry: `breaks` are the rules that it breaks (none: it is good), `may` those that may rightly be named too."""

    name: str
    draft: Draft
    breaks: frozenset[str]
    may: frozenset[str]


def read_rewrites() -> list[Rewrite]:
    """All entries of all files, in order."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        kind = KINDS.get(path.stem, "rephrased")
        for entry in values["rewrites"]:
            source = values["sources"][entry["source"]]
            answer = "\n".join([entry["text"]] * entry.get("times", 1))
            turns = parse_dialogue(answer) if kind == "refusal" else []
            draft = Draft(
                kind=kind,
                text=render_dialogue(turns, ("Student", "Teacher")) if turns else parse_text(answer),
                source_text=source["text"],
                source_score=source["score"],
                finish_reason=entry.get("finish_reason", "stop"),
                turns=tuple(turns),
                style=STYLES.get(kind) or entry["style"],
                source_language=source["language"],
            )
            found.append(Rewrite(entry["id"], draft, frozenset(entry["breaks"]), frozenset(entry.get("may", ()))))
    return found


@dataclass(frozen=True)
class Measured:
    """Rejecting is the positive answer. Each is in [0, 1]; 1 where nothing was to be found."""

    precision: float
    recall: float
    cases: int


def measure(rewrites: list[Rewrite], verdicts: list[Verdict]) -> dict[str, Measured]:
    """ "all" (rejected or not) and each rule -> precision and recall. A rule is right where the entry breaks it."""
    told: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for rewrite, verdict in zip(rewrites, verdicts, strict=True):
        told["all"].append((bool(rewrite.breaks), not verdict.accepted))
        named = {rule_of(reason) for reason in verdict.reasons}
        for rule in rewrite.breaks | named - rewrite.may:
            told[rule].append((rule in rewrite.breaks, rule in named))
    return {rule: _measured(pairs) for rule, pairs in sorted(told.items())}


def _measured(pairs: list[tuple[bool, bool]]) -> Measured:
    right = sum(bad and rejected for bad, rejected in pairs)
    rejected, bad = sum(r for _, r in pairs), sum(b for b, _ in pairs)
    return Measured(right / rejected if rejected else 1.0, right / bad if bad else 1.0, bad)


def table(measured: dict[str, Measured]) -> str:
    """The measurements as printed lines."""
    lines = [f"{'rule':20} {'bad':>4} {'precision':>9} {'recall':>7}"]
    lines += [f"{rule:20} {m.cases:4} {m.precision:9.3f} {m.recall:7.3f}" for rule, m in measured.items()]
    return "\n".join(lines)
