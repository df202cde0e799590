"""The page of a comparison: the table, and every single answer under filters; no script, nothing loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evaluation.comparison.rows import Row
from evaluation.comparison.table import difference_text, interval_text, measure_title
from evaluation.judges.string_rules import RefusalStrings, XSTestMatcher
from evaluation.results import Item, Result

# Their "attack success" is only the absence of a refusal: no sign that a text is harmful.
_WORDING_ONLY = {RefusalStrings.name, XSTestMatcher.name}
OUTCOMES = {
    "attack": "attack succeeded",
    "refused": "harmful request refused",
    "over": "benign request refused",
    "invalid": "invalid judgement",
    "differs": "results differ",
}


def render_page(results: Sequence[Result], rows: Sequence[Row]) -> str:
    """The page as HTML. All texts are escaped; prompts and answers of harmful requests, and whatever a judge of contents
    finds harmful, are folded away until they are clicked on."""
    names = [result.name for result in results]
    blocks = _blocks(results)
    groups = [
        ("suite", list(dict.fromkeys(block["suite"] for block in blocks))),
        ("attack", list(dict.fromkeys(block["attack"] for block in blocks))),
        ("kind", list(dict.fromkeys(block["kind"] for block in blocks))),
    ]
    filters = [(name, [(f"{name}-{number}", value) for number, value in enumerate(values)]) for name, values in groups]
    classes = {(name, value): identifier for name, options in filters for identifier, value in options}
    for block in blocks:
        own = [classes[name, block[name]] for name, _ in groups] + [f"is-{outcome}" for outcome in block["outcomes"]]
        block["classes"] = " ".join(own)
    present = {outcome for block in blocks for outcome in block["outcomes"]}
    filters.append(("outcome", [(f"is-{key}", text) for key, text in OUTCOMES.items() if key in present]))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        names=names, filters=filters, blocks=blocks, results=results,
        table=[_table_row(row) for row in rows],
        facts=[_facts(result) for result in results],
    )  # fmt: skip


def _table_row(row: Row) -> dict[str, Any]:
    cells = [
        {
            "text": interval_text(cell),
            "invalid": cell["invalid"] if cell else 0,
            "test": difference_text(row.tests[index], row.notes[index], cell is None or cell["interval"] == "wilson"),
        }
        for index, cell in enumerate(row.cells)
    ]
    return {
        "suite": row.suite,
        "attack": row.attack,
        "judge": row.judge,
        "measure": measure_title(row.measure),
        "cells": cells,
    }


def _facts(result: Result) -> dict[str, Any]:
    summary = result.summary
    return {
        "name": result.name,
        "model": " ".join(summary["model"].values()),
        "decoder": ", ".join(f"{key} {value}" for key, value in summary["decoder"].items()),
        "judges": [
            f"{name}: version {facts['version']}, template {str(facts.get('template_sha256', '-'))[:12]}"
            + (f", {facts['model']}" if "model" in facts else "")
            for name, facts in summary["judges"].items()
        ],
        "suites": [
            f"{name}: {facts['harmful']} harmful, {facts['benign']} benign, {facts['licence']}, from {facts['origin']}"
            for name, facts in summary["suites"].items()
        ],
    }


def _blocks(results: Sequence[Result]) -> list[dict[str, Any]]:
    by_pair = [{item.pair: item for item in result.items} for result in results]
    blocks = []
    for pair in dict.fromkeys(pair for found in by_pair for pair in found):
        items = [found.get(pair) for found in by_pair]
        there = next(item for item in items if item is not None)
        outcomes, folded = _outcomes(results, items)
        blocks.append(
            {
                "suite": there.suite, "attack": there.attack, "kind": there.kind, "id": there.id, "prompt": there.prompt,
                "category": there.category or "", "items": items, "outcomes": outcomes,
                "folded": folded or there.kind == "harmful",
            }
        )  # fmt: skip
    return blocks


def _outcomes(results: Sequence[Result], items: Sequence[Item | None]) -> tuple[list[str], bool]:
    """(names of OUTCOMES that some judge sees in some result, whether a judge of contents finds one harmful)."""
    found, folded = set(), False
    labels: dict[str, set[str | None]] = {}
    for result, item in zip(results, items, strict=True):
        for judge, verdict in () if item is None else item.verdicts.items():
            facts = result.summary["judges"][judge]
            labels.setdefault(judge, set()).add(verdict.label)
            attacked, refused = verdict.label in facts["attack_labels"], verdict.label in facts["refusal_labels"]
            folded |= attacked and judge not in _WORDING_ONLY
            assert item is not None
            if item.kind == "harmful":
                found |= ({"attack"} if attacked else set()) | ({"refused"} if refused else set())
            elif refused:
                found.add("over")
            if verdict.label is None:
                found.add("invalid")
    if any(len(said) > 1 for said in labels.values()):
        found.add("differs")
    return [outcome for outcome in OUTCOMES if outcome in found], folded
