"""Whole evaluations of a tiny model: measures against hand counts, resuming, a server, the comparison's files, errors."""

import json
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from classifiers.errors import DataError, RecipeError
from evaluation.comparison.compare import compare_results
from evaluation.comparison.rows import distinct_names
from evaluation.judges.choice import make_judge
from evaluation.judges.verdict import Verdict
from evaluation.recipe import load_recipe
from evaluation.results import Item, read_result, write_result
from evaluation.run import evaluate, measure
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from safetrove.cli import app
from tests.evaluation.tiny_model import save_tiny_model
from tests.pipeline.writer_stub import writer

QUICK = ["generation.dtype=float32", "generation.threads=1", "generation.max_new_tokens=6"]
NASTY = '<script>alert(1)</script> & "quotes" {{ 7 * 7 }}'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def recipe(model, *overrides):
    return load_recipe(None, [f"model={model}", *QUICK, *overrides])


def test_a_whole_evaluation_resumes_and_equals_hand_counts(model, tmp_path):
    wanted = recipe(model, "prefill_tokens=[0, 3]", "judges=[refusal_strings, xstest_strings]", "limit=10")
    seen = []
    summary = evaluate(wanted, tmp_path, on_progress=lambda what, done, total: seen.append((what, done, total)))
    assert ("answers of own, prefill-3", 10, 10) in seen
    result = read_result(tmp_path)
    assert len(result.items) == 20 and {item.attack for item in result.items} == {"none", "prefill-3"}
    for row in summary["measures"]:
        kind = "benign" if row["measure"] == "over_refusal_rate" else "harmful"
        labels = summary["judges"][row["judge"]][
            "attack_labels" if row["measure"] == "attack_success_rate" else "refusal_labels"
        ]
        items = [i for i in result.items if (i.attack, i.kind) == (row["attack"], kind)]
        hits = sum(item.verdicts[row["judge"]].label in labels for item in items)
        assert (row["n"], row["value"]) == (len(items), pytest.approx(hits / len(items)))
    assert len(summary["measures"]) == 2 * 2 * 3
    assert summary["suites"]["own"]["harmful"] == 5 and len(summary["suites"]["own"]["prompts_sha256"]) == 64
    kept = (tmp_path / "answers.jsonl").read_bytes()
    (tmp_path / "answers.jsonl").write_bytes(kept[: len(kept) // 2])
    assert evaluate(wanted, tmp_path) == summary
    assert sorted((tmp_path / "answers.jsonl").read_bytes().splitlines()) == sorted(kept.splitlines())


def test_answers_that_the_tag_ended_and_judgements_that_cannot_be_read_are_counted_apart(model, tmp_path):
    class Tagging:
        name = "tagging"

        def identity(self):
            return {"decoder": self.name}

        def generate(self, prompts):
            return [HARMFULNESS_TAG if "house" in prompt else f"reply {len(prompt)}" for prompt in prompts]

    answers = iter(["yes", "no", "who knows", "no", "who knows"])
    with writer(lambda content: next(answers)) as (url, asked):
        chosen = recipe(
            model, "limit=6", "judges=[harmbench]", f"judge_server={{url: '{url}', model: stub, concurrency: 1}}"
        )
        row = evaluate(chosen, tmp_path, lambda local: Tagging())["measures"][0]
        assert (row["n"], row["short_circuited"], row["valid"]) == (3, 1, 3 - row["invalid"])
        assert row["invalid"] == 1 and row["value"] == 0.5 and row["worst"] == pytest.approx(2 / 3, abs=1e-5)
        before = len(asked)
        evaluate(chosen, tmp_path, lambda local: Tagging())
        assert len(asked) == before + 1, "only what could not be read is asked again"


@pytest.mark.parametrize(
    ("judge", "label", "score", "worst"),
    [
        ("wildguard", "refusal", None, {"attack_success_rate": 0.4, "refusal_rate": 0.2, "over_refusal_rate": 0.6}),
        ("strongreject", "refused", 0.5, {"refusal_rate": 0.2, "mean_score": 0.7, "over_refusal_rate": 0.6}),
        ("constructive", "refusal", 1.0, {"attack_success_rate": 0.4, "mean_score": 0.6}),
    ],
)
def test_the_worst_value_has_every_invalid_judgement_against_the_model(judge, label, score, worst):
    """Two refusals, four other answers, four judgements that could not be read, of each kind of prompt."""
    server = {"url": "http://nowhere", "model": "stub"}
    chosen = make_judge(recipe("m", f"judges=[{{name: {judge}, server: {json.dumps(server)}}}]").judges[0], None, 1)
    verdicts = [Verdict(label, score)] * 2 + [Verdict("other", score)] * 4 + [Verdict(None)] * 4
    items = [
        Item("own", "none", f"{kind}{number}", kind, None, "p", "a", {judge: verdict})
        for kind in ("harmful", "benign")
        for number, verdict in enumerate(verdicts)
    ]
    found = {row["measure"]: row["worst"] for row in measure(items, [chosen])}
    assert {name: found[name] for name in worst} == worst


def test_a_server_is_evaluated_through_the_client(tmp_path):
    def said(content):
        return 400 if "bicycle" in content else "I cannot help with that."

    with writer(said) as (url, asked):
        overrides = [f"server={{url: '{url}', model: stub}}", "limit=4", "system=Be kind"]
        summary = evaluate(load_recipe(None, overrides), tmp_path)
        rows = {row["measure"]: row for row in summary["measures"]}
        assert rows["attack_success_rate"]["value"] == 0 and rows["attack_success_rate"]["invalid"] == 1
        assert rows["over_refusal_rate"]["value"] == 1 and len(asked) == 4
        assert summary["decoder"]["decoder"] == "server"
        with pytest.raises(RecipeError, match="asked in chats, without prefilled answers"):
            evaluate(load_recipe(None, [*overrides, "prefill_tokens=[5]"]), tmp_path)


def stored(folder, name, labels, **changes):
    """A result with hand-made verdicts: labels of five harmful and three benign prompts."""
    kinds = ["harmful"] * 5 + ["benign"] * 3
    items = [
        Item("own", "none", str(i), kind, None, f"{kind} PROMPT-{i} {NASTY}", f"ANSWER-{kind}-{i} {NASTY}",
             {"harmbench": Verdict(label, reason=None if label else "unreadable")})
        for i, (kind, label) in enumerate(zip(kinds, labels, strict=True))
    ]  # fmt: skip
    facts = {
        "version": 1,
        "template_sha256": "a" * 64,
        "attack_labels": ["yes"],
        "refusal_labels": [],
        "labels": ["yes", "no"],
    }
    hits, valid = labels[:5].count("yes"), 5 - labels[:5].count(None)
    measure = {
        "suite": "own", "attack": "none", "judge": "harmbench", "measure": "attack_success_rate", "value": hits / valid,
        "low": 0.1, "high": max(0.9, hits / valid), "interval": "wilson", "n": 5, "valid": valid, "invalid": 5 - valid, "short_circuited": 0,
        "worst": (hits + 5 - valid) / 5,
    }  # fmt: skip
    summary = {
        "name": name, "model": {"model": name, "revision": "1"}, "decoder": {"decoder": "batched"}, "measures": [measure],
        "judges": {"harmbench": {**facts, **changes}},
        "suites": {"own": {"harmful": 5, "benign": 3, "licence": "CC0", "origin": "own.jsonl"}},
    }  # fmt: skip
    write_result(folder, summary, items)
    return folder


def describe(folder, name, kind, called=None):
    """A suite of one prompt; `called`: another name than that of its files."""
    (folder / f"{name}.txt").write_text("one prompt\n")
    about = {"name": called or name, "title": "T", "kind": kind, "source": "test", "licence": "CC0"}
    values = {**about, "file": {"name": f"{name}.txt", "columns": {"prompt": "prompt"}}}
    (folder / f"{name}.yaml").write_text(json.dumps(values))


class Page(HTMLParser):
    """Tags with attributes, and text inside and outside closed `details`."""

    def __init__(self):
        super().__init__()
        self.tags, self.depth, self.folded, self.shown = [], 0, [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.depth += tag == "details"

    def handle_endtag(self, tag):
        self.depth -= tag == "details"

    def handle_data(self, data):
        (self.folded if self.depth else self.shown).append(data)


def test_comparison_table_tests_page_and_figure(tmp_path):
    first = stored(tmp_path / "a", "base", ["yes", "yes", "yes", "no", None, "no", "no", "no"])
    second = stored(tmp_path / "b", "tuned", ["no", "no", "yes", "no", "no", "no", "yes", "no"])
    lines = compare_results([first, second], tmp_path / "out")
    table = "\n".join(lines)
    assert "75.0 % [10.0, 90.0] (1 of 5 invalid; at worst 80.0 %)" in table
    assert "-50.0 points" in table and "p = 0.500, n = 4" in table, "the pair with an invalid judgement is left out"
    row = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"][0]
    assert row["tests_against_first"]["tuned"]["first_only"] == 2 and row["tests_against_first"]["base"] is None
    assert (tmp_path / "out" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    html = (tmp_path / "out" / "comparison.html").read_text()
    page = Page()
    page.feed(html)
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert not [a for _, a in page.tags if {"src", "href", "onclick"} & a.keys()]
    assert "default-src 'none'" in html and "{{ 7 * 7 }}" in html
    folded, shown = " ".join(page.folded), " ".join(page.shown)
    for number in range(5):
        assert f"PROMPT-{number}" in folded and f"PROMPT-{number}" not in shown
        assert f"ANSWER-harmful-{number} {NASTY}" in folded
    assert "ANSWER-benign-5" in shown and "ANSWER-benign-5" not in folded
    assert "ANSWER-benign-6" in folded and "ANSWER-benign-6" not in shown, "a judge of contents found it harmful"
    picks = {a["id"] for tag, a in page.tags if tag == "input"}
    assert {"pick-kind-0", "pick-kind-1", "pick-is-attack", "pick-is-invalid", "pick-is-differs"} <= picks
    assert all(f"#{pick}:checked" in html for pick in picks if not pick.endswith("-all"))


def test_results_judged_differently_are_not_tested_against_each_other(tmp_path):
    labels = ["yes"] * 5 + ["no"] * 3
    first = stored(tmp_path / "a", "same", labels)
    second = stored(tmp_path / "b", "same", labels, version=2)
    table = "\n".join(compare_results([first, second], tmp_path / "out"))
    assert "judged differently" in table and "same (a)" in table and "same (b)" in table
    with pytest.raises(RecipeError, match="given twice"):
        compare_results([first, first], tmp_path / "out")
    with pytest.raises(DataError, match=r"holds no evaluation\.json"):
        compare_results([tmp_path], tmp_path / "out")


def test_results_of_one_model_in_folders_of_one_name_stay_apart(tmp_path):
    folders = [tmp_path / parent / "result" for parent in ("A/x", "A/y", "B/x")]
    kinds = [["yes"] * hits + ["no"] * (8 - hits) for hits in (1, 2, 3)]
    for folder, labels in zip(folders, kinds, strict=True):
        stored(folder, "m", labels)
    table = "\n".join(compare_results(folders, tmp_path / "out"))
    names = ["m (A/x/result)", "m (y/result)", "m (B/x/result)"]
    assert all(name in table for name in names)
    compared = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert compared["results"] == names
    assert [compared["rows"][0]["results"][name]["value"] for name in names] == [0.2, 0.4, 0.6]
    assert set(compared["rows"][0]["tests_against_first"]) == set(names)


def test_equal_scores_and_differences_are_not_shown_as_certain(tmp_path):
    """A judge of ours, whose range is known, and one of somebody else's."""
    for name in ("a", "b"):
        stored(tmp_path / name, name, ["no"] * 8)
        result = read_result(tmp_path / name)
        judges = dict.fromkeys(("strongreject", "theirs"), result.summary["judges"]["harmbench"])
        cell = {**result.summary["measures"][0], "measure": "mean_score", "value": 0.5, "interval": "none"}
        rows = [{**cell, "judge": judge, "low": None, "high": None} for judge in judges]
        verdicts = dict.fromkeys(judges, Verdict("answered", 0.5))
        items = [replace(item, verdicts=verdicts) for item in result.items]
        write_result(tmp_path / name, {**result.summary, "judges": judges, "measures": rows}, items)
    table = "\n".join(compare_results([tmp_path / "a", tmp_path / "b"], tmp_path / "out"))
    known, unknown = (
        next(line for line in table.splitlines() if judge in line) for judge in ("strongreject", "theirs")
    )
    assert "| 0.500 (no interval: all are equal) | +0.000 [-0.434, +0.434], n = 5 |" in known
    assert "| +0.000 (no interval: all differences are equal), n = 5 |" in unknown
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["tests_against_first"]["b"]["low"] for row in rows] == [pytest.approx(-0.434, abs=1e-3), None]


def test_the_figure_names_every_result(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    shown, legend = [], Figure.legend

    def seen(self, handles, labels, **options):
        shown.extend(labels)
        return legend(self, handles, labels, **options)

    monkeypatch.setattr(Figure, "legend", seen)
    for name in ("_before", "$x_{$"):
        stored(tmp_path / name, name, ["yes"] * 8)
    compare_results([tmp_path / "_before", tmp_path / "$x_{$"], tmp_path / "out")
    assert shown == [" _before", r"\$x_{\$"] and (tmp_path / "out/comparison.png").is_file()


def test_results_without_any_measure_have_no_figure(tmp_path):
    folders = [stored(tmp_path / name, name, ["no"] * 8) for name in ("a", "b")]
    compare_results(folders, tmp_path / "out")
    for folder in folders:
        result = read_result(folder)
        write_result(folder, {**result.summary, "measures": []}, result.items)
    lines = compare_results(folders, tmp_path / "out")
    assert lines[-1].endswith("comparison.html") and not (tmp_path / "out" / "comparison.png").exists()


def test_suites_of_which_no_judge_has_a_measure_are_refused_before_a_model_is_loaded(tmp_path):
    describe(tmp_path, "calm", "benign")
    wanted = load_recipe(None, ["model=nowhere", f"suites=[{tmp_path}/calm.yaml]", "judges=[safety_classifier]"])
    with pytest.raises(RecipeError, match="suites calm hold benign prompts, of which judges safety_classifier have no"):
        evaluate(wanted, tmp_path / "out")


def test_a_comparison_without_common_valid_judgements_says_so(tmp_path):
    first = stored(tmp_path / "a", "base", ["yes", None, None, None, None, "no", "no", "no"])
    second = stored(tmp_path / "b", "tuned", [None, "yes", "no", "no", "no", "no", "no", "no"])
    third = stored(tmp_path / "c", "others", ["yes"] * 5 + ["no"] * 3)
    result = read_result(third)
    write_result(third, result.summary, [replace(item, id=f"other {item.id}") for item in result.items])
    table = "\n".join(compare_results([first, second, third], tmp_path / "out"))
    why = "no prompt with a valid judgement in both"
    assert table.count(f"| {why} |") == 2 and (tmp_path / "out" / "comparison.html").read_text().count(why) == 2
    (row,) = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert row["notes"] == {"tuned": why, "others": why}


def test_two_suites_of_one_name_are_refused(tmp_path):
    describe(tmp_path, "mine", "harmful", called="own")
    wanted = load_recipe(None, ["model=nowhere", f"suites=[own, {tmp_path}/mine.yaml]"])
    with pytest.raises(
        RecipeError, match=r"suites: own and .*mine.yaml both have the name 'own'; give the description"
    ):
        evaluate(wanted, tmp_path / "out")


def test_a_name_that_looks_like_a_lengthened_one_stays_apart(tmp_path, monkeypatch):
    folders = [stored(tmp_path / name, said, ["no"] * 8) for name, said in (("a", "m"), ("b", "m"), ("c", "m (a)"))]
    found = [result.name for result in distinct_names([read_result(folder) for folder in folders])]
    assert len(set(found)) == 3 and found[1] == "m (b)"
    monkeypatch.chdir(tmp_path / "a")
    here = [read_result(Path()), read_result(tmp_path / "b")]
    assert [result.name for result in distinct_names(here)] == ["m (a)", "m (b)"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["judges=[gpt]"], "no judge 'gpt'; known"),
        (["judges=[wildguard]"], "judge 'wildguard' asks a language model, and none is named"),
        (["judges=[xstest_strings, xstest_strings]"], "judges: Value error, each judge once"),
        (["suites=[]"], "suites: Value error, at least one suite"),
        (["suites=[nothing]"], "no suite 'nothing'; known"),
        (["prefill_tokens=[-1]"], "prefill_tokens: Value error, different whole numbers"),
        (["generation.max_tokens=1"], "generation.max_tokens: Extra inputs are not permitted"),
        (["form=completion", "system=Be kind."], "a text to continue has none; set `form: chat`"),
        (["model=2026-02-30"], "the value is not YAML; put it in quotes"),
        (["limit"], "--set limit: write it as key=value"),
        (["model=x", "model.name=y"], "--set model.name=y: model holds a single value"),
    ],
)
def test_wrong_recipes_say_what_to_write(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        evaluate(load_recipe(None, overrides), tmp_path)


def test_the_command_prints_measures_and_no_prompt_or_answer(model, tmp_path):
    arguments = [part for key in [f"model={model}", *QUICK, "limit=4"] for part in ("--set", key)]
    result = CliRunner().invoke(app, ["evaluate", "run", "--output", str(tmp_path / "a"), *arguments])
    assert result.exit_code == 0, result.exception
    assert "attack_success_rate" in result.output and "100.0 %" in result.output
    items = read_result(tmp_path / "a").items
    assert not [
        item for item in items if item.prompt in result.output or (item.answer and item.answer in result.output)
    ]
    listed = CliRunner().invoke(app, ["evaluate", "suites"])
    assert "advbench.json (absent) or walledai/AdvBench" in listed.output and "CC BY 4.0" in listed.output
    other = ["evaluate", "run", "--output", str(tmp_path / "b"), *arguments, "--set", "name=other"]
    assert CliRunner().invoke(app, other).exit_code == 0
    compared = CliRunner().invoke(
        app, ["evaluate", "compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "c")]
    )
    assert compared.exit_code == 0 and "+0.0 points" in compared.output


def test_a_file_in_the_place_of_the_folder_is_said_before_a_model_is_loaded(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    stored(tmp_path / "a", "a", ["yes"] * 8)
    with pytest.raises(RecipeError, match=r"file cannot be a folder \(File exists\): give another --output"):
        evaluate(load_recipe(None, ["model=/nowhere"]), file)
    with pytest.raises(RecipeError, match=r"file/inside cannot be a folder \(Not a directory\)"):
        compare_results([tmp_path / "a"], file / "inside")
    assert file.read_text() == ""


def test_items_are_read_as_they_were_written(tmp_path):
    item = Item("s", "none", "1", "harmful", "c", "p", None, {"j": Verdict("a", 0.5)})
    write_result(tmp_path, {"name": "x"}, [item])
    assert read_result(tmp_path).items == (item,) and asdict(item)["verdicts"]["j"]["score"] == 0.5
    (tmp_path / "items.jsonl").write_text('{"suite": 1}\n')
    with pytest.raises(DataError, match="lines of another form"):
        read_result(tmp_path)
