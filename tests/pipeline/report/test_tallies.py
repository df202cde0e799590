"""Tallies are sums: any split of the documents merges to the same bytes."""

import random
from itertools import pairwise

import pytest

from classifiers.errors import DataError
from pipeline.report.tallies import ALL, KINDS, Tally

LISTS = {"one": ("homicide", "robbery"), "two": ("robbery note",)}


def documents(seed: int, count: int = 60) -> list[tuple[str, str, int | None, int, str, str]]:
    draw = random.Random(seed)
    words = ["a", "homicide", "robbery", "robbery note", "calm"]
    return [
        (
            draw.choice(KINDS),
            draw.choice(["web", "forum", "naïve 名"]),
            draw.choice([None, 0, 1, 2, 3, 4, 5]),
            draw.randrange(0, 900),
            " ".join(draw.choices(words, k=draw.randrange(12))),
            draw.choice(["en", "de"]),
        )
        for _ in range(count)
    ]


def tally_of(rows) -> Tally:
    tally = Tally(LISTS)
    for row in rows:
        tally.add(*row)
    return tally


def test_merge_equals_counting_together_in_any_split_and_order() -> None:
    rows = documents(1)
    whole = tally_of(rows).to_json()
    for cuts in ((0, 60), (10, 20, 50), (59,)):
        bounds = [0, *cuts, 60]
        parts = [tally_of(rows[a:b]) for a, b in pairwise(bounds)]
        merged = Tally(LISTS)
        for part in reversed(parts):
            merged.merge(Tally.from_json(part.to_json(), "part", LISTS))
        assert merged.to_json() == whole


def test_sums_by_hand() -> None:
    tally = Tally(LISTS)
    tally.add("original", "web", 4, 10, "Robbery note, homicide")
    tally.add("original", "web", 4, 5, "homicide")
    tally.add("original", "web", 0, 7, "calm")
    sums = tally.total("original", scores=[4])
    assert (sums.documents, sums.tokens, sums.tokens_squared) == (2, 15, 125)
    one, every = sums.category("one"), sums.category(ALL)
    assert (one.hits, one.hits_squared, one.hits_tokens) == (3, 5, 25)
    assert (every.hits, every.hits_squared, every.hits_tokens) == (4, 10, 35)
    assert sums.phrases == {"robbery": 1, "robbery note": 1, "homicide": 2}
    assert tally.total("original").documents == 3
    assert tally.total("rephrased").category("one").hits == 0


def test_histogram_sums_to_the_documents() -> None:
    rows = documents(2)
    histogram = tally_of(rows).score_histogram()
    originals = [row for row in rows if row[0] == "original"]
    assert sum(histogram.values()) == len(originals)
    assert histogram[None] == sum(row[2] is None for row in originals)
    by_source = [tally_of(rows).score_histogram(source=source) for source in tally_of(rows).sources()]
    assert {level: sum(h[level] for h in by_source) for level in histogram} == histogram


@pytest.mark.parametrize(
    "row", [("raw", "web", 0, 1, ""), ("original", "web", 6, 1, ""), ("original", "web", 0, -1, "")]
)
def test_wrong_arguments_are_refused(row) -> None:
    with pytest.raises(ValueError):
        Tally(LISTS).add(*row)


def test_counts_of_other_phrase_lists_are_not_added() -> None:
    with pytest.raises(DataError, match="different phrase lists"):
        Tally(LISTS).merge(Tally({"one": ("arson",)}))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"format": "safetrove-card-counts", "version": 9}', b'{"a": 1}'])
def test_damaged_files_are_named(content: bytes) -> None:
    with pytest.raises(DataError, match=r"00003\.json"):
        Tally.from_json(content, "00003.json", LISTS)
