"""Which documents overlap an evaluation suite: word n-grams of the suites' prompts, searched in normalised text."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path

import regex
from ahocorasick_rs import AhoCorasick

from classifiers.errors import RecipeError
from pipeline.recipe import Suite

MINIMUM_WORDS = 4
_WORD = regex.compile(r"\w+")


def normalised_words(text: str) -> list[str]:
    """Case-folded words without punctuation: what both sides of the comparison are made of."""
    return _WORD.findall(text.casefold())


def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words; a shorter list is one run of its own if it has at least MINIMUM_WORDS words, else none."""
    if len(words) < n:
        return [tuple(words)] if len(words) >= MINIMUM_WORDS else []
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


class Decontaminator:
    """Finds the first suite that shares an n-gram of words with a text (n-gram matching as in GPT-3's appendix C,
    with a shorter n and whole short prompts, because suites' prompts are short)."""

    def __init__(self, prompts: Iterable[tuple[str, str]], n: int):
        """`prompts` are (suite name, prompt); prompts of fewer than MINIMUM_WORDS words cannot be matched safely."""
        pattern_suite: dict[str, str] = {}
        for suite, prompt in prompts:
            for run in ngrams(normalised_words(prompt), n):
                pattern_suite.setdefault(f" {' '.join(run)} ", suite)
        self._suites = list(pattern_suite.values())
        self._automaton = AhoCorasick(list(pattern_suite))

    def find(self, text: str) -> str | None:
        """The name of the suite whose n-gram stands first in the text, or None."""
        if not self._suites:
            return None
        for pattern, _, _ in self._automaton.find_matches_as_indexes(f" {' '.join(normalised_words(text))} "):
            return self._suites[pattern]
        return None


def suite_file(suite: Suite) -> Path:
    """Where a suite lies. Raises RecipeError where nothing does."""
    path = Path(suite.path)
    if not path.is_file():
        raise RecipeError(f"ingest.decontaminate: suite {suite.name}: {path}: no such file; put it back")
    return path


def read_suite(suite: Suite) -> list[str]:
    """The prompts of a suite file. Raises RecipeError naming the file and the column."""
    path = suite_file(suite)
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark before the first column's name
        if path.suffix == ".csv":
            rows = list(csv.DictReader(io.StringIO(text, newline="")))
        elif path.suffix == ".jsonl":
            rows = [json.loads(line) for line in io.StringIO(text) if line.strip()]
        else:
            rows = json.loads(text)
        return [str(row[suite.column]) for row in rows]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise RecipeError(
            f"ingest.decontaminate: suite {suite.name}: {path}: expected rows with the column {suite.column!r} "
            f"in JSON, JSONL or CSV, as UTF-8 ({type(error).__name__}: {error})"
        ) from error
