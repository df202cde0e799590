"""The result folder of one evaluation: what was measured, how, and every single answer with its judgements.

evaluation.json   recipe, model, decoder, suites, judges, measures, versions
items.jsonl       one line an answer: suite, attack, id, kind, category, prompt, answer, verdicts
answers.jsonl     the kept answers; verdicts.jsonl the kept verdicts: what makes a second run short
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from classifiers.errors import DataError
from evaluation.files import read_json, read_lines, write_json, write_lines
from evaluation.judges.verdict import Verdict

FORMAT = 1
RESULT_FILE, ITEM_FILE = "evaluation.json", "items.jsonl"


@dataclass(frozen=True)
class Item:
    """One answer. `attack` is "none" or "prefill-N"; `answer` is None where there is none; `verdicts` by judge."""

    suite: str
    attack: str
    id: str
    kind: str
    category: str | None
    prompt: str
    answer: str | None
    verdicts: dict[str, Verdict] = field(default_factory=dict)

    @property
    def pair(self) -> tuple[str, str, str]:
        """What the same prompt has in common in two results."""
        return self.suite, self.attack, self.id


@dataclass(frozen=True)
class Result:
    """One evaluation. `summary`: the content of evaluation.json; `measures` in it: see `evaluation.run`."""

    name: str
    folder: Path
    summary: dict[str, Any]
    items: tuple[Item, ...]


def write_result(folder: Path, summary: dict[str, Any], items: list[Item]) -> None:
    """Writes items first and the summary last, each whole or not at all."""
    write_lines(folder / ITEM_FILE, [asdict(item) for item in items])
    write_json(folder / RESULT_FILE, {"format": FORMAT, **summary})


def read_result(folder: Path) -> Result:
    """The result in a folder. Raises DataError for a folder that holds none, or one of another format."""
    if not (folder / RESULT_FILE).is_file():
        raise DataError(
            f"{folder} holds no {RESULT_FILE}: give the folder that `safetrove evaluate run` finished writing"
        )
    summary = read_json(folder / RESULT_FILE)
    if summary.get("format") != FORMAT:
        raise DataError(
            f"{folder / RESULT_FILE} has format {summary.get('format')!r}, this version reads {FORMAT}: run again"
        )
    try:
        items = tuple(
            Item(**{**row, "verdicts": {judge: Verdict(**said) for judge, said in row["verdicts"].items()}})
            for row in read_lines(folder / ITEM_FILE)
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{folder / ITEM_FILE} has lines of another form ({error}): run the evaluation again"
        ) from error
    return Result(summary["name"], folder, summary, items)
