"""Phrase counting: the stated rules, and the same counts as a slow search written another way."""

import json

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.errors import DataError
from pipeline.report import check_phrases
from pipeline.report.phrase_counts import PhraseCounter, fold
from pipeline.report.phrase_lists import CATEGORY_TITLES, load_phrase_lists, read_phrase_file

LISTS = {"first": ("rape", "suicide", "suicide note", "straße"), "second": ("note", "data leak", "won't", "éa")}
WORDS = [
    "rape",
    "grape",
    "suicide",
    "NOTE",
    "note",
    "Straße",
    "STRASSE",
    "data",
    "leak",
    "won’t",
    "Ünote",
    "日本",
    "éa",
    "e\u0301a",
    "note_",
    "x",
    "ı",
    "İ",
    "😀",
]
GAPS = [" ", "  ", "\n", "-", "\u2011", "\u00a0", "", ", ", ".", "\u0301", "_", "’s "]


def slow_count(text: str) -> dict[str, int]:
    """The rules by regular expression, phrase by phrase: look-arounds over letters, digits, marks and underscore."""
    word = r"[\p{L}\p{N}\p{M}_]"
    counts = {}
    for category, phrases in LISTS.items():
        patterns = (rf"(?<!{word}){regex.escape(fold(phrase))}(?!{word})" for phrase in phrases)
        counts[category] = sum(len(regex.findall(p, fold(text), overlapped=True)) for p in patterns)
    return counts


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(GAPS)), max_size=12))
def test_counts_equal_a_naive_regex(pieces: list[tuple[str, str]]) -> None:
    text = "".join(word + gap for word, gap in pieces)
    assert PhraseCounter(LISTS).count(text) == slow_count(text)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=60))
def test_the_fast_ascii_folding_follows_the_general_rules(text: str) -> None:
    assert fold(text) == fold(text + " \u65e5").removesuffix("\u65e5").strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Grape grapes RAPE, rape.", {"first": 2, "second": 0}),
        ("a suicide\n  note", {"first": 2, "second": 1}),
        ("data-leak data\u2011leak data. leak", {"first": 0, "second": 2}),
        ("STRASSE straße Straßen", {"first": 2, "second": 0}),
        ("日本 😀 rape 日本 ünote", {"first": 1, "second": 0}),
        ("won’t won't", {"first": 0, "second": 2}),
        ("e\u0301a note\u0301", {"first": 0, "second": 1}),
    ],
)
def test_rules_on_examples(text: str, expected: dict[str, int]) -> None:
    assert PhraseCounter(LISTS).count(text) == expected


def test_phrases_that_fold_to_one_form_are_refused() -> None:
    with pytest.raises(DataError, match="same after case folding"):
        PhraseCounter({"first": ("Data leak", "data-leak")})


def test_the_fourteen_lists_hold_30_to_50_short_phrases_each() -> None:
    lists = load_phrase_lists()
    assert list(lists) == list(CATEGORY_TITLES) and len(lists) == 14
    assert all(30 <= len(phrases) <= 50 for phrases in lists.values())
    counter = PhraseCounter()
    for phrase, category in zip(counter.phrases, counter.category_of, strict=True):
        assert counter.count(f"({phrase})")[counter.categories[category]] >= 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("category: other\nphrases: [a]", "expected `category: hate`"),
        ("category: hate\nphrases: [one two three four]", "not a phrase of 1 to 3 words"),
        ("category: hate\nphrases: [yes]", "not a phrase"),
        ("category: hate\nphrases: [a, a]", "holds a phrase twice"),
        ("category: [", "cannot read the phrase list"),
    ],
)
def test_wrong_lists_are_refused_with_the_file_named(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "hate.yaml"
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_phrase_file(path)
    assert str(path) in str(error.value)


def test_a_phrase_in_two_categories_is_refused(tmp_path) -> None:
    for category in CATEGORY_TITLES:
        (tmp_path / f"{category}.yaml").write_text(f"category: {category}\nphrases: [same]")
    with pytest.raises(DataError, match=r"stands in violent_crimes\.yaml too"):
        load_phrase_lists(tmp_path)


def test_check_phrases_finds_the_phrase_that_is_common_in_safe_text(tmp_path, capsys) -> None:
    rows = [{"text": "a quiet day " * 50 + "with a homicide", "score": "0"}, {"text": "homicide " * 9, "score": 4}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert check_phrases.main([str(path)]) == 1
    assert "violent_crimes: homicide  above the bound" in capsys.readouterr().out
    assert check_phrases.main([str(path), "--max-per-million", "1e6"]) == 0
    path.write_text("[1]\n")
    assert check_phrases.main([str(path)]) == 1
    assert "line 1: expected an object" in capsys.readouterr().err


def test_our_phrases_are_rare_in_known_safe_text(shared_data) -> None:
    assert check_phrases.main([str(shared_data / "annotations" / "train.jsonl"), "--max-per-million", "13"]) == 0
