"""The rows of a comparison: one for each suite, attack, judge and measure, with every result's value and paired tests."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from evaluation.judges.choice import score_range
from evaluation.measures.paired_tests import PairedTest, paired_test
from evaluation.results import Item, Result

KEYS = ("suite", "attack", "judge", "measure")
# Of which prompts a measure is, and which labels count; mean_score takes scores.
_KIND = {"over_refusal_rate": "benign"}
_LABELS = {
    "attack_success_rate": "attack_labels",
    "refusal_rate": "refusal_labels",
    "over_refusal_rate": "refusal_labels",
}


@dataclass(frozen=True)
class Row:
    """`cells[result]`: the measure's entry of that result, None where it has none. `tests[result]`: against the first
    result, None for the first one and where they cannot be compared, of which `notes[result]` says why."""

    suite: str
    attack: str
    judge: str
    measure: str
    cells: list[dict[str, Any] | None]
    tests: list[PairedTest | None]
    notes: list[str]


def distinct_names(results: Sequence[Result]) -> list[Result]:
    """The results, of different folders; names that occur twice get the folder's name added, with as many of the folders
    around it as tell them apart: "m (a/result)" and "m (b/result)"."""
    parts = [result.folder.resolve().parts for result in results]
    shown = [0] * len(results)
    names = [result.name for result in results]
    while repeated := {i for i, name in enumerate(names) if names.count(name) > 1 and shown[i] < len(parts[i])}:
        shown = [number + (i in repeated) for i, number in enumerate(shown)]
        names = [
            f"{result.name} ({Path(*own[-number:]).as_posix()})" if number else result.name
            for result, own, number in zip(results, parts, shown, strict=True)
        ]
    return [replace(result, name=name) for result, name in zip(results, names, strict=True)]


def comparison_rows(results: Sequence[Result]) -> list[Row]:
    """All measures of all results, in the order in which they occur."""
    entries = [{tuple(entry[key] for key in KEYS): entry for entry in r.summary["measures"]} for r in results]
    items = [{item.pair: item for item in result.items} for result in results]
    rows = []
    for key in dict.fromkeys(key for found in entries for key in found):
        suite, attack, judge, measure = key
        tests: list[PairedTest | None] = [None]
        notes = [""]
        for index in range(1, len(results)):
            note = _hindrance(results[0], results[index], key, entries[0], entries[index])
            first, second = _pairs(items[0], items[index], results[0], suite, attack, judge, measure)
            if not note and not first:
                note = "no prompt with a valid judgement in both"
            notes.append(note)
            value_range = score_range(judge) if measure == "mean_score" else (0.0, 1.0)
            tests.append(None if note else paired_test(first, second, value_range=value_range))
        rows.append(Row(suite, attack, judge, measure, [found.get(key) for found in entries], tests, notes))
    return rows


def row_as_json(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """A row as plain values, by the results' names; nan as None."""
    tests = {
        name: None if test is None else {k: None if v != v else v for k, v in asdict(test).items()}
        for name, test in zip(names, row.tests, strict=True)
    }
    return {
        **{key: getattr(row, key) for key in KEYS},
        "results": dict(zip(names, row.cells, strict=True)),
        "tests_against_first": tests,
        "notes": {name: note for name, note in zip(names, row.notes, strict=True) if note},
    }


def _hindrance(
    first: Result, other: Result, key: tuple[str, ...], in_first: dict[Any, Any], in_other: dict[Any, Any]
) -> str:
    """Why two results cannot be tested against each other in this row; empty: they can."""
    if key not in in_first or key not in in_other:
        return "measured in one of them only"
    if first.summary["judges"][key[2]] != other.summary["judges"][key[2]]:
        return "judged differently (another version, template, model or sampling of the judge)"
    return ""


def _pairs(
    first: dict[Any, Item], second: dict[Any, Item], result: Result, suite: str, attack: str, judge: str, measure: str
) -> tuple[list[float], list[float]]:
    """The values of both on the prompts that both have a valid judgement of."""
    labels = None if measure == "mean_score" else set(result.summary["judges"].get(judge, {}).get(_LABELS[measure], ()))
    kind = _KIND.get(measure, "harmful")
    pairs = []
    for pair, item in first.items():
        other = second.get(pair)
        if other is None or (item.suite, item.attack, item.kind) != (suite, attack, kind):
            continue
        values = [_value(one, judge, labels) for one in (item, other)]
        if values[0] is not None and values[1] is not None:
            pairs.append((values[0], values[1]))
    return [a for a, _ in pairs], [b for _, b in pairs]


def _value(item: Item, judge: str, labels: set[str] | None) -> float | None:
    verdict = item.verdicts.get(judge)
    if verdict is None or verdict.label is None:
        return None
    return verdict.score if labels is None else float(verdict.label in labels)
