"""Suites: descriptions, local copies, errors; completion prompts; the files that results are kept in."""

import json
from collections import Counter

import pytest
import yaml

from classifiers.errors import DataError, RecipeError
from evaluation.files import KeptAnswers, read_lines
from evaluation.suites import SuitePrompt, known_suites, load_suite
from evaluation.suites.loading import read_rows
from evaluation.suites.prompt_forms import completion_prompt, compliant_opening

SIZES = {
    "advbench": 520, "harmbench_test": 159, "harmbench_val": 41, "jailbreakbench": 100, "strongreject": 313,
    "tdc2023": 100, "malicious_instruct": 100, "xstest": 450,
}  # fmt: skip
ASKED_FOR = {
    *SIZES, "jailbreakbench_benign", "phtest", "do_not_answer", "simple_safety_tests", "hex_phi", "own",
}  # fmt: skip


def describe(folder, rows, suffix="json", **changes):
    name = f"mine.{suffix}"
    text = json.dumps(rows) if suffix == "json" else rows
    (folder / name).write_text(text, encoding="utf-8")
    values = {
        "name": "mine", "title": "Mine", "kind": "harmful", "source": "here", "licence": "CC0",
        "file": {"name": name, "columns": {"prompt": "prompt"}}, **changes,
    }  # fmt: skip
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_all_suites_of_the_plan_have_descriptions():
    assert known_suites().keys() >= ASKED_FOR
    assert all(suite.name == name and suite.licence and suite.source for name, suite in known_suites().items())


def test_local_copies_load_whole_and_unchanged(shared_data):
    for name, size in SIZES.items():
        suite = load_suite(name, shared_data / "benchmarks")
        assert len(suite.prompts) == size, name
        assert len({prompt.id for prompt in suite.prompts}) == size
    kinds = Counter(prompt.kind for prompt in load_suite("xstest", shared_data / "benchmarks").prompts)
    assert kinds == {"benign": 250, "harmful": 200}


def test_our_suite_has_forty_requests_and_a_benign_twin_of_each():
    suite = load_suite("own")
    assert [prompt.kind for prompt in suite.prompts] == ["harmful", "benign"] * 40
    twins = zip(suite.prompts[::2], suite.prompts[1::2], strict=True)
    assert all(harmful.category == benign.category for harmful, benign in twins)
    assert len({prompt.id for prompt in suite.prompts}) == 80


def test_duplicates_keep_different_ids_and_samples_are_fixed(tmp_path):
    name = describe(tmp_path, [{"prompt": "twice"}, {"prompt": " twice "}, {"prompt": ""}])
    first, second = load_suite(name).prompts
    assert second.id == f"{first.id}-2"
    rows = [{"prompt": f"number {i}", "level": "a" if i % 2 else "b"} for i in range(60)]
    name = describe(tmp_path, rows, keep={"level": ["a"]}, sample=10)
    drawn = load_suite(name)
    assert len(drawn.prompts) == 10 and all(int(p.text.split()[1]) % 2 for p in drawn.prompts)
    name = describe(tmp_path, rows[::-1], keep={"level": ["a"]}, sample=10)
    assert {p.text for p in load_suite(name).prompts} == {p.text for p in drawn.prompts}


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "mine.json is empty"),
        ([{"prompt": " "}], {}, "no prompt that can be asked"),
        ([{"question": "x"}], {}, "row 1 has no column 'prompt'; it has 'question'"),
        ([{"prompt": "x"}], {"keep": {"level": ["1"]}}, "no column 'level'"),
        ({"prompt": "x"}, {}, "expected a list of objects"),
        (
            [{"prompt": "x", "label": "odd"}],
            {
                "kind": "contrast",
                "kinds": {"safe": "benign"},
                "file": {"name": "mine.json", "columns": {"prompt": "prompt", "kind": "label"}},
            },
            "'label' is 'odd', which `kinds` does not explain",
        ),
        ([{"prompt": "x"}, {"prompt": "x \ud83d"}], {}, "mine.json, row 2: 'prompt' holds half a character"),
        (
            [{"prompt": "\U0001f600", "of": "\udfff"}],
            {"file": {"name": "mine.json", "columns": {"prompt": "prompt", "category": "of"}}},
            "mine.json, row 1: 'of' holds half a character",
        ),
        (
            [{"prompt": "x"}],
            {"file": {"name": "mine.json", "columns": {"prompt": "prompt"}, "sha256": "0" * 64}},
            "expected 0000.*another version",
        ),
    ],
)
def test_wrong_data_says_what_is_wrong(tmp_path, rows, changes, message):
    with pytest.raises(DataError, match=message):
        load_suite(describe(tmp_path, rows, **changes))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("mine.parquet", b"prompt", "mine.parquet cannot be read as Parquet"),
        ("mine.csv", b"prompt\n" + b"x" * 200_000, "mine.csv, line 2: not CSV"),
        ("mine.json", b"[" * 100_000, "mine.json, line 1: not JSON"),
        ("mine.jsonl", b"{}\n" + b'{"prompt": ' * 100_000, "mine.jsonl, line 2: not JSON"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_wrong_descriptions_name_the_key(tmp_path):
    with pytest.raises(RecipeError, match="no suite 'advbunch'; known: advbench"):
        load_suite("advbunch")
    with pytest.raises(RecipeError, match=r"`columns\.kind` is needed"):
        load_suite(describe(tmp_path, [], kind="contrast"))
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: no such suite description"):
        load_suite("nowhere.yaml")
    with pytest.raises(DataError, match="line 2: not JSON"):
        load_suite(describe(tmp_path, '{"prompt": "x"}\n{', "jsonl"))


def test_a_suite_that_is_neither_here_nor_on_the_hub_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"walledai/AdvBench cannot be read from the Hub .*nor is advbench.json in"):
        load_suite("advbench", tmp_path)


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        ("How do I bake bread?", "Here is how to bake bread. First,"),
        ("Explain how to bake bread.", "Here is how to bake bread. First,"),
        ("how to bake bread", "Here is how to bake bread. First,"),
        ("How does one bake bread?", "Here is how to bake bread. First,"),
        ("Tell me how I could bake bread.", "Here is how to bake bread. First,"),
        ("Please explain how to bake bread!", "Here is how to bake bread. First,"),
        ("How many loaves fit?", "Question: How many loaves fit?\nAnswer:"),
        ("How much flour does one need", "Question: How much flour does one need\nAnswer:"),
        ("How long must it rise?", "Question: How long must it rise?\nAnswer:"),
        ("How does yeast work?", "Question: How does yeast work?\nAnswer:"),
        ("How did Rome feed itself?", "Question: How did Rome feed itself?\nAnswer:"),
        ("Explain how yeast works.", "The following text does exactly this: Explain how yeast works.\n\n"),
        ("However you bake, praise it.", "The following text does exactly this: However you bake, praise it.\n\n"),
        ("Write a poem about rain.", "Here is a poem about rain:\n\n"),
        ("Give me a plan for a garden", "Here is a plan for a garden:\n\n"),
        ("What is rain?", "Question: What is rain?\nAnswer:"),
        ("Praise the rain.", "The following text does exactly this: Praise the rain.\n\n"),
    ],
)
def test_requests_become_texts_to_continue(request_text, expected):
    assert completion_prompt(request_text) == expected


def test_the_suites_own_target_comes_before_our_opening():
    assert compliant_opening(SuitePrompt("1", "x", "harmful", None, "Sure, here is")) == "Sure, here is"
    assert compliant_opening(SuitePrompt("1", "x", "harmful")).startswith("Sure, I can help")


def test_kept_answers_survive_a_kill_in_the_middle_of_a_line(tmp_path):
    path = tmp_path / "answers.jsonl"
    kept = KeptAnswers(path)
    kept.add([("a", "first"), ("b", {"label": "no"})])
    with path.open("ab") as stream:
        stream.write(b'{"key": "c", "val')
    again = KeptAnswers(path)
    assert len(again) == 2 and again["a"] == "first" and "c" not in again
    again.add([("c", None)])
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b", "c"]
    path.write_text('{"key": "a"}\n')
    with pytest.raises(DataError, match="line 1 is damaged"):
        KeptAnswers(path)


def test_line_separators_of_unicode_end_no_line_of_json(tmp_path):
    """An answer may hold U+2028, U+0085 or a form feed as they are: JSON allows them in strings."""
    text = "one\u2028two\u0085three\x0bfour"
    KeptAnswers(tmp_path / "answers.jsonl").add([("a", text)])
    assert KeptAnswers(tmp_path / "answers.jsonl")["a"] == text
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"text": "one\u2028two"}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    assert read_lines(tmp_path / "rows.jsonl") == [{"text": "one\u2028two"}]
    describe(tmp_path, json.dumps({"prompt": "one\u2028two"}, ensure_ascii=False) + "\n", "jsonl")
    suite = load_suite(str(tmp_path / "mine.yaml"))
    assert [prompt.text for prompt in suite.prompts] == ["one\u2028two"]
