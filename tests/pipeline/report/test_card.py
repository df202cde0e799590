"""The card of a generated run: its numbers, its gaps, its warnings, and the same bytes each time."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from classifiers.errors import DataError
from pipeline.ingest.input_files import InputFile
from pipeline.report import build_card
from pipeline.report.card import card_data
from pipeline.report.run_summary import OPTIONAL_STAGES, missing_parts, read_manifests, writer_name
from pipeline.report.tallies import Tally
from pipeline.run_folder import RunFolder
from pipeline.stages.order import build_stages
from safetrove.cli import card as compare
from tests.pipeline.stage_runs import small_recipe


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def change_manifest(run: Path, stage: str, shard: int, **changes) -> None:
    path = run / "manifests" / stage / f"{shard:05d}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_four_files_with_the_same_bytes_each_time(run: Path) -> None:
    first = build_card(run)
    report = run / "report"
    names = ["card.html", "card.json", "card.md", "card.png"]
    assert sorted(p.name for p in report.iterdir()) == names
    assert json.loads((report / "card.json").read_text()) == json.loads(json.dumps(first))
    before = {name: (report / name).read_bytes() for name in names}
    for stage in ("ingest", "score-final"):
        change_manifest(run, stage, 0, seconds=99.0)
    # The stage that builds the card leaves a manifest itself; a second card must not differ by it.
    shutil.copytree(run / "manifests" / "blend", run / "manifests" / "report")
    build_card(run)
    assert before == {name: (report / name).read_bytes() for name in names}
    assert before["card.png"].startswith(b"\x89PNG") and len(before["card.png"]) > 20_000


def test_two_runs_are_compared_without_a_change_to_either(run: Path, finished_run: Path, capsys) -> None:
    before = sorted(path for folder in (run, finished_run) for path in folder.rglob("*"))
    compare(["diff", str(run), str(finished_run)])
    assert "B against A" in capsys.readouterr().out
    assert sorted(path for folder in (run, finished_run) for path in folder.rglob("*")) == before


def test_numbers_agree_with_the_tallies(finished_run: Path) -> None:
    card = card_data(finished_run)
    tally = Tally()
    for path in (finished_run / "card_counts").iterdir():
        tally.merge(Tally.from_json(path.read_bytes(), path.name))
    originals = tally.total("original")
    assert (card["headline"]["documents"], card["headline"]["tokens"]) == (originals.documents, originals.tokens)
    levels = card["histogram"]["all"]["levels"]
    assert sum(level["documents"] for level in levels) == card["histogram"]["all"]["scored"] == originals.documents
    assert sum(source["documents"] for source in card["sources"]) == originals.documents
    hate = card["phrase_rates"]["by_kind"]["original"]["categories"]["hate"]
    assert hate["sum"]["value"] == pytest.approx(originals.category("hate").hits * 1e6 / originals.tokens)
    assert hate["mean"]["value"] == pytest.approx(hate["sum"]["value"] / len(tally.lists["hate"]))
    assert card["headline"]["removed"] == {
        "duplicate": 111,
        "never_train": 6,
        "never_train_by_reason": {"privacy": 6},
        "contaminated": 18,
        "contaminated_by_suite": {"advbench": 12, "xstest": 6},
    }
    assert sum(row["share"] for row in card["languages"]) == pytest.approx(1) and len(card["languages"]) == 11


def test_rewritten_texts_stand_beside_originals_of_their_own_levels(finished_run: Path) -> None:
    comparisons = card_data(finished_run)["phrase_rates"]["comparisons"]
    assert comparisons["rephrased"]["levels"] == [1, 2, 3] and comparisons["refusal"]["levels"] == [4, 5]
    pair = comparisons["rephrased"]
    assert pair["original"]["documents"] == pair["synthetic"]["documents"]
    assert pair["synthetic"]["all"]["sum"]["high"] < pair["original"]["all"]["sum"]["low"]


def test_manifests_are_not_kept_whole(finished_run: Path) -> None:
    kept = [manifest for shards in read_manifests(finished_run).values() for manifest in shards]
    assert kept and {key for manifest in kept for key in manifest} <= {"rows", "metrics", "forced_stale"}


def test_yield_styles_tokens_and_settings(finished_run: Path) -> None:
    card = card_data(finished_run)
    rephrased = card["synthetic"]["rephrased"]
    assert rephrased["dropped"] == {"copied": 45, "too_unsafe": 90} and rephrased["tried"] == 1650
    assert rephrased["by_style"]["podcast_host"]["share"]["value"] == pytest.approx(0.8)
    assert rephrased["by_style"]["textbook"]["rejected"] == {"copied": 75, "style:title": 60}
    assert rephrased["rejected"] == {"copied": 105, "style:title": 60} and rephrased["drafts"] == 330
    assert list(rephrased["by_attempt"].items()) == [("1", 180), ("2", 30), ("10", 0)]
    tokens = {row["source"]: row for row in card["tokens"]}
    assert tokens["safe"]["tokens"] == 2_730_000 and tokens["safe"]["weight"] == 0.8
    assert tokens["moral"]["weight"] is None
    settings = card["made"]["settings"]
    assert settings["synthesis.llm.model"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert settings["score.embedding.head"] == "head.safetensors", "no folder of a machine in a published card"
    assert card["made"]["seed"] == 7 and len(card["made"]["recipe_sha256"]) == 64
    assert not card["weak_writer"] and card["warnings"] == [] and card["missing"] == []


def test_weak_writer_is_named(run: Path) -> None:
    rows = {"in": 1000, "kept": 12, "dropped": {"too_unsafe": 900, "looping": 88}, "quarantined": {}}
    change_manifest(run, "verify-rephrased", 0, rows=rows)
    change_manifest(run, "verify-refusal", 0, rows=rows)
    change_manifest(run, "verify-moral", 0, rows={**rows, "in": 4000, "dropped": {"empty": 3988}})
    assert build_card(run)["weak_writer"]
    for name in ("card.md", "card.html"):
        shown = (run / "report" / name).read_text()
        assert "Weak writer" in shown and "meta-llama/Llama-3.1-8B-Instruct wrote" in shown.replace("&#58;", ":")


def test_yield_by_style_and_rule_is_shown(run: Path) -> None:
    for shard in range(3):
        metrics = {
            "yield_by_style": {"stage_talk": [1, 900], "two_friends": [0, 800]},
            "rejected_by_style": {"stage_talk": {"unsafe": 7, "style:closing_question": 1002}},
            "accepted_by_attempt": {"1": 0, "2": 1},
        }
        change_manifest(run, "verify-rephrased", shard, metrics=metrics)
    card = build_card(run)
    assert card["synthetic"]["rephrased"]["by_style"]["stage_talk"]["rejected"]["unsafe"] == 21
    for name in ("card.md", "card.html"):
        shown = (run / "report" / name).read_text().replace("&#58;", ":").replace("\\_", "_")
        assert "style:closing_question 3,006, unsafe 21" in shown and "two_friends" in shown, name
        assert "5,100 drafts for 1,650 documents; accepted by attempt 2: 3." in shown, name
        assert "Yield zero" not in shown


def golden(over_scored: float, error: float, scored: int = 40) -> dict:
    counts = {"asked": 40, "scored": scored, "invalid": 40 - scored, "refused": 0, "unanswered": 0, "retries": 0}
    return {**counts, "mean_signed_error": error, "over_scored": over_scored, "under_scored": None, "levels": {"a": 1}}


def test_the_judges_health_is_summed_and_its_worst_golden_report_shown(run: Path) -> None:
    reports = [golden(0.05, 0.25), golden(0.125, -0.75, scored=38), golden(0.0, 0.5)]
    for shard, report in enumerate(reports):
        counts = {"asked": 100, "scored": 90, "invalid": 4, "refused": 5, "unanswered": 1, "retries": 7}
        change_manifest(run, "score-judge", shard, metrics={"judge": {**counts, "golden": report}})
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["score"]["judge"] = {"health": {"most_invalid": 0.05, "most_over_scored": 0.2}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    judge = build_card(run)["judge"]
    assert (judge["asked"], judge["invalid"], judge["refused"], judge["retries"]) == (300, 12, 15, 21)
    share = judge["shares"]["invalid"]
    assert share["value"] == pytest.approx(0.04) and share["low"] < 0.04 < share["high"]
    assert judge["golden"] == {
        **{"texts": 40, "without_score": 2, "mean_signed_error": -0.75, "over_scored": 0.125, "under_scored": None}
    }
    for name in ("card.md", "card.html"):
        shown = (run / "report" / name).read_text().replace("&#58;", ":")
        assert "Health of the LLM judge" in shown, name
        for value in ("12: 4.0 %", "5.0 %", "15: 5.0 %", "12.5 %", "20.0 %", "2 of 40", "-0.75"):
            assert value in shown, (name, value)
    assert json.loads((run / "report" / "card.json").read_text())["judge"] == judge


def test_a_card_without_a_judge_says_nothing_of_one(finished_run: Path) -> None:
    assert build_card(finished_run)["judge"] is None
    assert "LLM judge" not in (finished_run / "report" / "card.html").read_text()


def test_a_judge_that_was_asked_about_no_document_has_no_shares(run: Path) -> None:
    nothing = {"asked": 0, "scored": 0, "invalid": 0, "refused": 0, "unanswered": 0, "retries": 0}
    change_manifest(run, "score-judge", 0, metrics={"judge": {**nothing, "golden": golden(0.0, 0.0)}})
    judge = build_card(run)["judge"]
    assert judge["shares"]["invalid"] is None and judge["allowed"]["most_invalid"] is None
    assert "Health of the LLM judge" in (run / "report" / "card.md").read_text()


def test_a_yield_of_zero_is_a_result_and_said_so(run: Path) -> None:
    for shard in range(3):
        rows = {"in": 500, "kept": 0, "dropped": {"style:title": 200, "unsafe": 300}, "quarantined": {}}
        change_manifest(run, "verify-moral", shard, rows=rows, metrics={})
    card = build_card(run)
    assert card["synthetic"]["moral"]["accepted"] == 0 and card["synthetic"]["moral"]["share"]["value"] == 0
    assert not any("Broken" in warning or "Failed" in warning for warning in card["warnings"])
    for name in ("card.md", "card.html"):
        shown = (run / "report" / name).read_text()
        assert "Yield zero" in shown and "none of 1,500 documents has a text of the kind moral education" in shown, name
        assert "That is a valid result" in shown


@pytest.mark.parametrize("last", ["ingest", "score-final", "verify-rephrased", "tokenise-safe"])
def test_card_from_any_finished_stage(run: Path, last: str) -> None:
    stages = [row["stage"] for row in card_data(run)["ledger"]]
    later = stages[stages.index(last) + 1 :]
    for stage in later:
        shutil.rmtree(run / "manifests" / stage)
    shutil.rmtree(run / "card_counts")
    card = build_card(run)
    required = [stage for stage in later if stage not in OPTIONAL_STAGES]
    assert card["missing"] == required and card["histogram"] is None
    assert "These stages have not run" in (run / "report" / "card.md").read_text()
    assert "These stages have not run" in (run / "report" / "card.html").read_text()


def test_counts_without_manifests_and_without_synthetic_or_scores(tmp_path: Path) -> None:
    tally = Tally()
    tally.add("original", "web", None, 0, "")
    (tmp_path / "card_counts").mkdir()
    (tmp_path / "card_counts" / "00000.json").write_bytes(tally.to_json())
    card = build_card(tmp_path)
    assert card["headline"]["unsafe"] is None and card["histogram"]["all"]["unscored"] == 1
    assert card["phrase_rates"]["by_kind"]["original"]["all"] is None


def test_stages_that_the_recipe_leaves_out_are_no_gap(run: Path) -> None:
    for stage in ("rephrase", "refuse", "moralise"):
        shutil.rmtree(run / "manifests" / stage)
    for kind in ("rephrased", "refusal", "moral"):
        shutil.rmtree(run / "manifests" / f"verify-{kind}")
        shutil.rmtree(run / "manifests" / f"tokenise-{kind}")
    assert len(card_data(run)["missing"]) == 9
    (run / "recipe.yaml").write_text("name: safe-only\nsynthesis: null\n")
    card = card_data(run)
    assert card["missing"] == [] and card["writer"] is None


@pytest.mark.parametrize(
    "synthesis",
    [
        {"refuse_scores": []},
        {"rephrase_scores": []},
        {"rephrase_scores": [], "refuse_scores": []},
        {"moralise": False},
    ],
)
def test_stages_that_the_recipe_leaves_out_are_not_missing(tmp_path: Path, synthesis: dict) -> None:
    recipe = small_recipe(tmp_path, synthesis=synthesis)
    run = RunFolder(tmp_path / "run")
    stages = build_stages(recipe, run, [InputFile("texts", "jsonl", "a.jsonl", str(tmp_path / "a.jsonl"))])
    manifests = {stage.name: [{}] for stage in stages}
    values = recipe.model_dump(mode="json")
    assert missing_parts(manifests, values) == []
    for name in [name for name in manifests if name.startswith("verify")]:
        assert missing_parts({key: m for key, m in manifests.items() if key != name}, values) == [name]


def test_warnings_of_stale_broken_failed_and_partial_stages(run: Path) -> None:
    change_manifest(run, "tag", 1, forced_stale=True)
    change_manifest(run, "rephrase", 0, rows={"in": 9, "kept": 8, "dropped": {}, "quarantined": {}})
    change_manifest(run, "rephrase", 1, rows={"in": 8, "kept": 9, "dropped": {}, "quarantined": {}})
    path = run / "manifests" / "refuse" / "00002.json"
    path.rename(path.with_name("00002.failed.json"))
    card = build_card(run)
    assert card["stale"]
    text = "\n".join(card["warnings"])
    for said in ("Stale: tag", "Broken ledger: rows of rephrase", "1 shard(s) of refuse", "refuse has finished 2 of 3"):
        assert said in text
    assert "Stale: tag" in (run / "report" / "card.html").read_text()


def test_errors_name_the_file(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run folder"):
        card_data(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="nothing has finished"):
        card_data(tmp_path / "empty")
    manifest = run / "manifests" / "ingest" / "00001.json"
    manifest.write_text('{"rows": 3}')
    with pytest.raises(DataError, match=r"ingest/00001\.json: not a manifest"):
        card_data(run)
    shutil.rmtree(run / "manifests" / "ingest")
    (run / "tokens" / "blend.json").write_text("{}")
    with pytest.raises(DataError, match=r"blend\.json: not a blend file"):
        card_data(run)
    (run / "recipe.yaml").write_text("- a list")
    with pytest.raises(DataError, match=r"recipe\.yaml: expected a mapping"):
        card_data(run)


def test_counts_with_other_phrases_are_refused(run: Path) -> None:
    path = run / "card_counts" / "00000.json"
    for file in (run / "card_counts").iterdir():
        content = json.loads(path.read_text())
        file.write_text(json.dumps(content | {"phrase_lists_sha256": "0" * 64}))
    with pytest.raises(DataError, match="other phrase lists"):
        card_data(run)


@pytest.mark.parametrize("model", ["/home/somebody/models/writer-7b", "org/writer-7b"])
def test_a_writer_in_a_folder_is_shown_by_its_name(model):
    assert writer_name({"synthesis": {"llm": {"model": model}}}) == model.replace("/home/somebody/models/", "")
