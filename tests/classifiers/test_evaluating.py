"""Baselines, members, and the report that tables and figures are made of, on a few texts of our own."""

import importlib.util
import json

import numpy as np
import pytest

from classifiers.errors import DataError, DependencyError
from classifiers.evaluating import baselines as baselines_module
from classifiers.evaluating.baselines import (
    alt_profanity_levels,
    profanity_list_levels,
    source_levels,
    upper_median,
)
from classifiers.evaluating.figures import draw_confusions, draw_curves
from classifiers.evaluating.members import SOURCE_ALONE, Member, check_weights, ensemble_member, member_from_scores
from classifiers.evaluating.report import EvaluationSettings, evaluation_report
from classifiers.evaluating.tables import evaluation_tables, markdown_table
from classifiers.score import Score
from classifiers.training.labels import LabelledText, read_labels, read_pool

SETTINGS = EvaluationSettings(200, 0, {1: 0.25, 3: 0.02})


def row(number, score, source="web_page", category="other"):
    return LabelledText(f"text {number}", score, "none" if score == 0 else category, source, f"row-{number}")


def score(probabilities, category="other"):
    level = int(np.argmax(probabilities))
    return Score(level, tuple(probabilities), "none" if level == 0 else category, 0.5, 1)


def test_profanity_list_sees_whole_words_of_two_strengths():
    texts = ["A classic assessment in Scunthorpe.", "Damn, I missed the bus.", "What a SHITTY day, damn.", "shell"]
    assert profanity_list_levels(texts) == [0, 1, 3, 0]


def test_upper_median_is_the_majority_at_every_boundary():
    assert upper_median([0, 0, 3]) == 0
    assert upper_median([0, 3]) == 3
    assert upper_median([0, 1, 2, 3, 4]) == 2
    with pytest.raises(ValueError, match="no levels"):
        upper_median([])


def test_source_baseline_learns_from_the_training_rows_or_leaves_one_out():
    rows = [row(0, 5, "news"), row(1, 0, "chat"), row(2, 0, "unheard of")]
    training = [row(3, 1, "news"), row(4, 4, "chat"), row(5, 4, "chat")]
    assert source_levels(rows, training) == [1, 4, 4]
    alone = [row(0, 4, "chat"), row(1, 0, "chat"), row(2, 0, "chat"), row(3, 2, "single")]
    # the own label never helps: the chat of level 4 is told by the two of level 0
    assert source_levels(alone, None) == [0, 4, 4, 0]


@pytest.mark.skipif(importlib.util.find_spec("profanity_check") is None, reason="alt-profanity-check is not installed")
def test_alt_profanity_check_answers_from_a_process_of_its_own():
    import sys

    assert alt_profanity_levels(["Bread, butter and jam.", "What the fuck, you shitty asshole"]) == [0, 3]
    assert "profanity_check" not in sys.modules


def test_a_missing_alt_profanity_check_is_said_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(baselines_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="pip install alt-profanity-check"):
        alt_profanity_levels(["a text"])


def test_the_ensemble_takes_the_largest_level_and_the_largest_tails():
    columns = {"a": [score([0.9, 0.1, 0, 0, 0, 0]), None], "b": [score([0.2, 0, 0, 0.8, 0, 0]), None]}
    member = ensemble_member("both", ["one", "two"], columns)
    assert member.levels == (3, 5), "a text that nobody could score counts as 5"
    assert member.tails[0] == pytest.approx([0.8, 0.8, 0.8, 0, 0])
    assert member.categories == ("other", "other")


def test_weights_that_are_no_folder_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        check_weights(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def report():
    rows = [row(n, n % 6, ("web_page", "news", "chat")[n % 3], ("hate", "privacy")[n % 2]) for n in range(60)]
    probabilities = np.random.default_rng(0).dirichlet(np.ones(6), 60)
    member = member_from_scores("noise", [r.text for r in rows], [score(p, "hate") for p in probabilities.round(3)])
    perfect = Member("perfect", tuple(r.score for r in rows))
    return evaluation_report(rows, [perfect, Member("nothing", (0,) * 60), member], SETTINGS)


def test_report_measures_each_member_in_each_place(report):
    assert report["main"] == "noise" and report["rows"] == 60
    perfect, nothing = report["all"]["perfect"], report["all"]["nothing"]
    assert perfect["macro_f1"]["value"] == 1.0 and perfect["unsafe_3"] == 30
    assert perfect["recall_3"]["value"] == 1.0 and 0.8 < perfect["recall_3"]["low"] < 1.0
    assert nothing["recall_1"]["value"] == 0.0 and nothing["precision_1"] is None
    assert report["web"]["perfect"]["texts"] == 20
    assert [entry["texts"] for entry in report["by_source"]["noise"].values()] == [20, 20, 20]
    privacy = {name: categories["privacy"] for name, categories in report["by_category"].items()}
    assert privacy["noise"]["never_train_category"] and privacy["perfect"]["recall_3"]["value"] == 1.0
    assert {name for name, entry in privacy.items() if "named" in entry} == {"noise"}, "only it names categories"
    assert report["false_positives"]["perfect"]["web pages and news"]["texts"] == 20
    assert np.array(report["confusion"]["perfect"]).diagonal().tolist() == [10] * 6
    assert (
        report["differences"]["perfect"]["recall_3"]["high"] < 0 < report["differences"]["nothing"]["recall_3"]["low"]
    )


def test_curves_end_where_everything_is_flagged(report):
    for level, unsafe in (("1", 50), ("3", 30)):
        last = report["curves"]["noise"][level][-1]
        assert last["recall"] == last["flagged"] == 1.0 and last["precision"] == pytest.approx(unsafe / 60)
        recalls = [point["recall"] for point in report["curves"]["noise"][level]]
        assert recalls == sorted(recalls)
        assert len(report["curves"]["perfect"][level]) == 1
        assert report["curves"]["nothing"][level] == []


def test_report_is_json_without_nan_and_without_text(report):
    written = json.dumps(report, allow_nan=False)
    assert "text 1" not in written


def test_tables_name_members_sources_and_categories(report):
    tables = evaluation_tables({**report, "skipped": {"absent": "not installed"}})
    for part in ("| perfect ", "## noise, by source", "hate", "privacy *", "Recall@3"):
        assert part in tables
    assert "Not asked: absent: not installed" in tables
    assert "nan" not in tables


def test_the_source_alone_stands_beside_the_main_member_in_every_table():
    rows = [row(n, n % 6, ("web_page", "chat")[n % 2], ("hate", "privacy")[n % 4 // 2]) for n in range(40)]
    alone = Member(SOURCE_ALONE, tuple(source_levels(rows, None)))
    found = evaluation_report(rows, [alone, Member("other", tuple(r.score for r in rows))], SETTINGS)
    sections = dict(part.split("\n\n", 1) for part in evaluation_tables(found).split("## ")[1:])
    for title in ("All 40 texts", "Web pages", "Precision where", "False positives", "other, by", "other minus"):
        for name in (name for name in sections if name.startswith(title)):
            assert SOURCE_ALONE in sections[name], name
    assert sum(name.startswith("other, by") for name in sections) == 2
    cells = next(line for line in sections["other, by category"].splitlines() if "hate" in line).split("|")
    expected = [i for i, r in enumerate(rows) if r.category == "hate" and r.score >= 1]
    assert float(cells[-3]) == pytest.approx(sum(alone.levels[i] >= 1 for i in expected) / len(expected), abs=5e-4)


def test_markdown_columns_are_of_one_width():
    lines = markdown_table(["a", "long head"], [["a longer cell", "1"], ["b", "22"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "| ------------- | --------: |"


def test_figures_are_the_same_bytes_for_the_same_report(report, tmp_path):
    for draw, names in ((draw_confusions, ("a.png", "b.png")), (draw_curves, ("c.png",))):
        for name in names:
            draw(report, tmp_path / name)
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png", "c.png"}


def test_rows_without_an_id_are_known_by_their_text(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"text": "a", "score": 0, "category": "none", "id": 7}\n{"text": "b", "score": 0, "category": "none"}\n'
    )
    first, second = read_labels(file)
    assert first.id == "7" and len(second.id) == 32
    assert [entry.id for entry in read_pool(file)] == [first.id, second.id]
    file.write_text('{"text": "b"}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"line 2: the id .* occurs twice"):
        read_pool(file)
