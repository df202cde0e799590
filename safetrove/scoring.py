"""`safetrove score`: JSON lines in, JSON lines out, with the classifiers that ship with safetrove."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from classifiers.errors import DataError

WINDOW = 256  # lines scored at once,
MOST_CHARACTERS_IN_WINDOW = 4_000_000  # or fewer long ones: this bounds the memory


@dataclass(frozen=True)
class _Line:
    """What a line holds, and beside it why it cannot be scored: a row may have any keys of its own."""

    row: dict[str, Any]
    error: str | None = None


def score_lines(files: list[Path], out: IO[str]) -> int:
    """Score every line in order. A line that is no JSON object with `text` gets an `error` instead of a score.

    Returns 1 where there was such a line, else 0.
    """
    from classifiers.embedding import EmbeddingClassifier
    from classifiers.ensemble import combine
    from classifiers.fasttext_classifier import FastTextClassifier

    members: dict[str, Any] = {"fasttext": FastTextClassifier.load(), "embedding": EmbeddingClassifier.load()}
    bad = False
    for window in _windows(_lines(files)):
        texts = [line.row["text"] for line in window if line.error is None]
        columns = {name: classifier.score(texts) for name, classifier in members.items()}
        scored = iter(range(len(texts)))
        for line in window:
            identifier = {"id": line.row["id"]} if "id" in line.row else {}
            if line.error is not None:
                bad = True
                out.write(json.dumps({**identifier, "error": line.error}) + "\n")
                continue
            position = next(scored)
            scores = {name: column[position] for name, column in columns.items()}
            final = combine(scores)
            value = {
                **identifier,
                "score": final.score,
                "probabilities": [round(p, 5) for p in final.probabilities],
                "category": final.category,
                "by": {name: score.score for name, score in scores.items()},
            }
            out.write(json.dumps(value) + "\n")
    return int(bad)


def _windows(lines: Iterator[_Line]) -> Iterator[list[_Line]]:
    window: list[_Line] = []
    characters = 0
    for line in lines:
        window.append(line)
        characters += len(line.row["text"]) if line.error is None else 0
        if len(window) == WINDOW or characters > MOST_CHARACTERS_IN_WINDOW:
            yield window
            window, characters = [], 0
    if window:
        yield window


def _lines(files: list[Path]) -> Iterator[_Line]:
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
    streams: list[Any] = [path.open("rb") for path in files] or [sys.stdin.buffer]
    for stream in streams:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield _Line({}, f"line {number}: not JSON: {error}")
                continue
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                expected = f"line {number}: expected a JSON object with a string `text`"
                yield _Line(row if isinstance(row, dict) else {}, expected)
                continue
            yield _Line(row)
