"""The ladder's cells, table and figure from made-up results, checked against hand counts."""

import json

import pytest

from evaluation.judges.verdict import SHORT_CIRCUIT, Verdict
from evaluation.ladder.cells import ladder_cell, step
from evaluation.ladder.figure import draw_ladder
from evaluation.ladder.rungs import COLUMNS, RUNG_OF, RUNGS, paper_rates, rung_sources, source_weights
from evaluation.ladder.table import Ladder, RungFacts, SourceUse, ladder_json, ladder_markdown
from evaluation.measures.intervals import wilson_interval
from evaluation.results import Item, Result

EVERY = [rung.name for rung in RUNGS]
STRINGS = {"attack_labels": ["answered"], "refusal_labels": ["refused"]}


def result(labels, benign=(), suite="a", attack="none"):
    """One evaluation with these labels of the harmful prompts 0, 1, ... and of benign ones."""
    items = [
        Item(
            suite, attack, f"{kind}{n}", kind, None, "p", "a", {"strings": Verdict(label), "scores": Verdict("level_0")}
        )
        for kind, group in (("harmful", labels), ("benign", benign))
        for n, label in enumerate(group)
    ]
    judges = {"strings": STRINGS, "scores": {"attack_labels": [], "refusal_labels": []}}
    return Result("x", None, {"judges": judges}, tuple(items))


Y, N = "answered", "refused"


def test_sources_of_a_rung_are_those_of_the_chosen_rungs_below():
    assert rung_sources("raw", EVERY) == ["safe", "unsafe"]
    assert rung_sources("score_0", EVERY) == ["safe"]
    assert rung_sources("refusal", EVERY) == ["safe", "rephrased", "refusal"]
    assert rung_sources("tags", EVERY) == ["safe", "rephrased", "refusal", "moral", "tagged"]
    assert rung_sources("tags", ["raw", "refusal", "tags", "safe_beam"]) == ["safe", "refusal", "tagged"]


def test_weights_give_named_sources_their_share_and_divide_the_rest_by_tokens():
    tokens = {"safe": 600, "tagged": 200, "moral": 7}
    weights = source_weights(["safe", "tagged", "moral"], tokens, {"moral": 0.2, "refusal": 0.5})
    assert weights == pytest.approx({"safe": 0.6, "tagged": 0.2, "moral": 0.2})
    assert source_weights(["safe"], tokens, {"moral": 0.2}) == {"safe": 1.0}
    with pytest.raises(ValueError, match="leave nothing for safe"):
        source_weights(["safe", "moral"], tokens, {"moral": 1.0})


def test_a_cell_is_the_mean_over_prompts_of_the_mean_over_seeds():
    seeds = {"0": result([Y, N, N, Y], [N, Y]), "1": result([Y, Y, N, None], [N, N])}
    cell = ladder_cell(seeds, "strings", "none", "attack_success_rate")
    assert cell.by_prompt == {("a", "none", f"harmful{n}"): v for n, v in enumerate((1, 0.5, 0, 1))}
    assert cell.value == pytest.approx(2.5 / 4) and cell.prompts == 4 and cell.low < cell.value < cell.high
    wilson = wilson_interval(2, 3)  # the second seed's invalid judgement is in no share
    rate = cell.seeds["1"]
    assert (rate.value, rate.low, rate.high, rate.valid, rate.invalid) == (2 / 3, wilson.low, wilson.high, 3, 1)
    assert ladder_cell(seeds, "strings", "none", "over_refusal_rate").value == pytest.approx(0.75)
    assert ladder_cell(seeds, "strings", "prefill-5", "attack_success_rate") is None
    assert ladder_cell(seeds, "scores", "none", "attack_success_rate") is None
    cut = ladder_cell({"0": result([SHORT_CIRCUIT, Y])}, "strings", "none", "attack_success_rate")
    assert cut.value == 0.5 and cut.seeds["0"].ended_by_tag == 1


def test_a_cell_without_spread_claims_no_certainty():
    for label, value in ((Y, 1.0), (N, 0.0)):
        cell = ladder_cell(
            {"0": result([label] * 5), "1": result([label] * 5)}, "strings", "none", "attack_success_rate"
        )
        wilson = wilson_interval(int(5 * value), 5)
        assert (cell.value, cell.low, cell.high) == (value, wilson.low, wilson.high) and cell.low < cell.high
        change = step(cell, cell)
        assert (change.low, change.high) == (-wilson_interval(0, 5).high, wilson_interval(0, 5).high)
    halves = {"0": result([Y] * 5), "1": result([N] * 5)}
    cell = ladder_cell(halves, "strings", "none", "attack_success_rate")
    assert (cell.value, cell.low) == (0.5, pytest.approx(wilson_interval(2.5, 5).low))
    assert step(cell, cell).low < 0 < step(cell, cell).high


def test_a_step_is_paired_by_prompt():
    below = ladder_cell({"0": result([Y, Y, N, Y])}, "strings", "none", "attack_success_rate")
    cell = ladder_cell({"0": result([N, Y, N])}, "strings", "none", "attack_success_rate")
    change = step(below, cell)
    assert change.n == 3 and change.difference == pytest.approx(-1 / 3) and change.low <= -1 / 3 <= change.high


def ladder(rungs=("raw", "score_0", "safe_beam")):
    evaluations = {
        "raw": {column: {"0": result([Y, Y, Y, N], [Y, Y]), "1": result([Y, Y, N, N], [Y, N])} for column in COLUMNS},
        "score_0": {"base": {"0": result([SHORT_CIRCUIT, N, N, N])}},
    }
    uses = [SourceUse("safe", 1000, 10, 0.75, 1.5, "the corpus's"), SourceUse("unsafe", 300, 3, 0.25, 2.0, "tags out")]
    facts = {"raw": RungFacts(uses, {"last loss of pretraining": 3.25}), "score_0": RungFacts(uses[:1])}
    return Ladder(rungs, (0, 1), 2000, evaluations, facts, ["Mind this."])


def test_the_table_stands_beside_the_paper_and_says_what_is_missing():
    text = ladder_markdown(ladder())
    raw, score_0, beam = [line for line in text.splitlines() if line.startswith(("| raw", "| score 0", "| + Safe"))][:3]
    assert raw.startswith("| raw | 62.5 [") and "(75.0, 50.0)" in raw and raw.endswith("| 44.1 / 1.6 / 38.8 |")
    assert "| 25.0 [0.0, 50.0] (0.0, 50.0) |" in raw  # over-refusal: one of two prompts, in one of two seeds
    assert score_0.endswith("| - | - | - | - | - / - / 43.8 |") and "25 % ended by the tag" in score_0
    assert beam == "| + Safe Beam | - | - | - | - | - | 11.6 / 0.0 / 8.3 |"
    assert "| raw | safe 75.0 % (1.5 x), unsafe 25.0 % (2.0 x) | 3.250 |" in text
    assert "- Mind this." in text and "2,000 tokens" in text and "judge: scores" not in text


def test_json_has_every_seed_and_the_papers_numbers():
    value = json.loads(json.dumps(ladder_json(ladder())))
    attack = value["tables"][0]
    assert attack["rungs"]["raw"]["benign"]["seeds"]["1"]["value"] == 0.5 and attack["rungs"]["safe_beam"] == {}
    assert value["paper_attack_success_percent"]["score_0"] == {"benign": 43.8}
    assert value["trained_on"]["raw"]["sources"][1]["epochs"] == 2.0


def test_a_seed_without_a_valid_judgement_is_no_number():
    evaluations = {
        "raw": {"benign": {"0": result([Y, N]), "1": result([None, None])}},
        "score_0": {"benign": {"0": result([None, None, Y]), "1": result([None, None, None])}},
    }
    found = Ladder(("raw", "score_0"), (0, 1), 1, evaluations, {})
    value = json.dumps(ladder_json(found), allow_nan=False)
    assert json.loads(value)["tables"][0]["rungs"]["raw"]["benign"]["seeds"]["1"]["value"] is None
    raw, score_0 = [line for line in ladder_markdown(found).splitlines() if line.startswith(("| raw |", "| score 0"))][
        :2
    ]
    assert "(50.0, -); 2 of 4 invalid" in raw and "(100.0, -); 5 of 6 invalid | - |" in score_0
    assert "nan" not in ladder_markdown(found) and draw_ladder(found).startswith(b"\x89PNG")


def test_the_figure_is_drawn_from_what_there_is():
    assert draw_ladder(ladder()).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no rung is evaluated yet"):
        draw_ladder(Ladder(("raw",), (0,), 1, {}, {}))


def test_the_papers_numbers_are_of_known_rungs_and_columns():
    assert set(paper_rates()) <= set(RUNG_OF) and all(set(found) <= set(COLUMNS) for found in paper_rates().values())
    assert [paper_rates().get(name, {}).get("benign") for name in EVERY] == [38.8, 43.8, 33.6, 25.1, 23.0, None, 8.3]
