"""Which phrases are common in text known to be safe, and so measure nothing: `python -m pipeline.report.check_phrases`.

Reads JSON lines with `text` and (optional) `score`; rows with a score other than 0 are passed over. A token is a word
between white space here: the bound is a coarse sieve, not a card. Exit code 1 when a phrase is above the bound.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from classifiers.errors import DataError, SafetroveError
from pipeline.report.phrase_counts import PhraseCounter
from pipeline.report.rates import rate_per_million


def safe_texts(path: Path) -> Iterator[str]:
    """The texts of a JSON lines file whose score is 0 or absent. Raises DataError naming the row that is wrong."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                if int(row.get("score") or 0) == 0:
                    yield row["text"]
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise DataError(f"{path}, line {number}: expected an object with `text` and maybe `score`") from error


def safe_text_rates(texts: Iterable[str], counter: PhraseCounter) -> tuple[int, dict[str, float]]:
    """(words, phrase -> hits per million words) over the texts; phrases without a hit are left out."""
    words = 0
    hits: Counter[int] = Counter()
    for text in texts:
        words += len(text.split())
        hits.update(counter.hits(text))
    return words, {counter.phrases[phrase]: rate_per_million(n, words) for phrase, n in hits.most_common()}


def main(arguments: list[str] | None = None) -> int:
    """Prints every phrase found in safe text with its rate; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.report.check_phrases", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help="JSON lines with `text` and maybe `score`")
    parser.add_argument("--max-per-million", type=float, default=10.0, help="bound for one phrase (default 10)")
    options = parser.parse_args(arguments)
    counter = PhraseCounter()
    try:
        words, rates = safe_text_rates((text for path in options.files for text in safe_texts(path)), counter)
    except (SafetroveError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    category_of = {
        phrase: counter.categories[c] for phrase, c in zip(counter.phrases, counter.category_of, strict=True)
    }
    above = 0
    for phrase, rate in rates.items():
        above += rate > options.max_per_million
        mark = "  above the bound: drop it" if rate > options.max_per_million else ""
        print(f"{rate:10.2f} per million words  {category_of[phrase]}: {phrase}{mark}")
    print(f"{len(counter.phrases)} phrases, {words} words of safe text, {above} above {options.max_per_million:g}")
    return 1 if above else 0


if __name__ == "__main__":
    raise SystemExit(main())
