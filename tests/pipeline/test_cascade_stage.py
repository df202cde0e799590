"""The cascade in staged runs: null rows where the gate stopped a document, `stage_reached`, and what stays whole."""

import json

import pyarrow.parquet as pq
import pytest

from classifiers.calibration_file import Calibration
from classifiers.cascade import CALIBRATION_FILE
from classifiers.cascade_rules import Thresholds
from classifiers.embedding import EmbeddingClassifier
from classifiers.errors import IdentityError, RecipeError
from classifiers.judge_health import golden_texts
from pipeline.recipe import dump_recipe, parse_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.cascade import GatedEmbeddingStage
from pipeline.stages.order import build_stages
from pipeline.stages.score import ClassifierStage, FinalScoreStage, score_table
from pipeline.stages.verify import VerifyStage
from tests.classifiers.small_cascade import SAFE, UNSAFE, build_small_cascade
from tests.pipeline.judge_stub import digit, judging
from tests.pipeline.stage_runs import run_stage, small_recipe, write_documents

LOGINS = "\n".join(f"user{n}@mail.example:Passw0rd{n}x" for n in range(12))
TEXTS = [SAFE[0], UNSAFE[0], SAFE[1], LOGINS]


@pytest.fixture(scope="module")
def gates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gates")
    build_small_cascade(folder, EmbeddingClassifier.load())
    return folder


def close_gates(folder) -> None:
    """Thresholds that no chunk reaches, so that each document stops."""
    file = folder / CALIBRATION_FILE
    raw = json.loads(file.read_text())
    for promise in raw["promises"]:
        promise["threshold"] = 2.0
    raw["thresholds"] = vars(Thresholds(2.0, 2.0, 2.0))
    Calibration.model_validate_json(json.dumps(raw)).save(file)


def rows(run, name):
    return pq.read_table(score_table(run, name, 0)).to_pylist()


@pytest.fixture(scope="module")
def finished(gates, tmp_path_factory):
    """A run with a cascade and one without, after score-final."""
    runs = {}
    for name, cascade in (("cascade", {"calibration": str(gates)}), ("whole", None)):
        folder = tmp_path_factory.mktemp(name)
        recipe, run = small_recipe(folder, score={"cascade": cascade}), RunFolder(folder / "run")
        write_documents(run, TEXTS)
        stages = [stage for stage in build_stages(recipe, run, [None]) if stage.name.startswith("score-")]
        manifests = [run_stage(stage) for stage in stages]
        runs[name] = (run, dict(zip([stage.name for stage in stages], manifests, strict=True)))
    return runs


def test_stopped_documents_have_a_null_row(finished):
    run, manifests = finished["cascade"]
    table = rows(run, "embedding")
    assert [row["score"] is None for row in table] == [True, False, True, table[3]["score"] is None]
    for row in table:
        if row["score"] is None:
            assert row["reason"] == "stopped_at_gate"
            assert all(row[column] is None for column in row.keys() - {"id", "reason"})
    stopped = sum(row["score"] is None for row in table)
    assert manifests["score-embedding"].metrics["stopped_at_gate"] == stopped
    assert manifests["score-embedding"].rows.kept == len(TEXTS)


def test_final_scores_say_how_far_a_document_went(finished):
    run, _ = finished["cascade"]
    final = rows(run, "final")
    assert [row["stage_reached"] for row in final[:3]] == ["fasttext", "embedding", "fasttext"]
    assert [row["by_embedding"] for row in (final[0], final[2])] == [None, None]
    assert (final[0]["score"], final[0]["category"]) == (0, "none") and final[1]["score"] >= 3


def test_patterns_of_private_data_count_for_stopped_documents_too(gates, tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    for file in gates.iterdir():
        (closed / file.name).write_bytes(file.read_bytes())
    close_gates(closed)
    recipe, run = small_recipe(tmp_path, score={"cascade": {"calibration": str(closed)}}), RunFolder(tmp_path / "run")
    write_documents(run, [LOGINS])
    for stage in (ClassifierStage("fasttext", recipe, run, 1), GatedEmbeddingStage(recipe, run, 1)):
        run_stage(stage)
    run_stage(FinalScoreStage(recipe, run, 1))
    (row,) = rows(run, "final")
    assert row["by_embedding"] is None and row["never_train"].startswith("privacy")


def test_without_a_cascade_every_document_is_embedded(finished):
    run, _ = finished["whole"]
    assert all(row["score"] is not None for row in rows(run, "embedding"))
    assert "stage_reached" not in rows(run, "final")[0]


def test_a_cascade_never_scores_above_the_whole_ensemble(finished):
    for cascade, whole in zip(*(rows(finished[name][0], "final") for name in ("cascade", "whole")), strict=True):
        assert cascade["score"] <= whole["score"] and cascade["by_fasttext"] == whole["by_fasttext"]


def test_the_gated_stage_reads_fasttext_and_names_its_gates(gates, tmp_path):
    recipe = small_recipe(
        tmp_path, score={"classifiers": ["embedding", "fasttext"], "cascade": {"calibration": str(gates)}}
    )
    names = [stage.name for stage in build_stages(recipe, RunFolder(tmp_path / "run"), [None])]
    assert names.index("score-fasttext") < names.index("score-embedding")
    stage = GatedEmbeddingStage(recipe, RunFolder(tmp_path / "run"), 1)
    assert ("score-fasttext", 0) in stage.inputs(0)
    before = stage.settings()
    assert set(before["cascade"]) == {"gate.safetensors", "calibration.json"}


def test_verification_uses_the_whole_ensemble(gates, tmp_path):
    recipe = small_recipe(tmp_path, score={"cascade": {"calibration": str(gates)}})
    stage = VerifyStage("rephrased", recipe, RunFolder(tmp_path / "run"), 1)
    assert {part.classifier: type(part) for part in stage.verification.classifiers} == {
        "fasttext": ClassifierStage,
        "embedding": ClassifierStage,
    }


def test_gates_of_other_weights_stop_the_stage(gates, tmp_path):
    moved = tmp_path / "gates"
    moved.mkdir()
    for file in gates.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    raw = json.loads((moved / CALIBRATION_FILE).read_text())
    raw["classifiers"]["fasttext"]["weights"]["level.ftz"] = "0" * 64
    (moved / CALIBRATION_FILE).write_text(json.dumps(raw))
    recipe, run = small_recipe(tmp_path, score={"cascade": {"calibration": str(moved)}}), RunFolder(tmp_path / "run")
    write_documents(run, TEXTS)
    run_stage(ClassifierStage("fasttext", recipe, run, 1))
    with pytest.raises(IdentityError, match="other weights of fasttext"):
        run_stage(GatedEmbeddingStage(recipe, run, 1))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        ({"classifiers": ["embedding"], "cascade": {"calibration": "g"}}, "needs both fasttext and embedding"),
        (
            {"embedding": {"keep_embeddings": True}, "cascade": {"calibration": "g"}},
            "keep_embeddings keeps all of them",
        ),
        ({"cascade": {}}, "score.cascade.calibration"),
    ],
)
def test_a_recipe_that_cannot_cascade_is_refused(score, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        small_recipe(tmp_path, score=score)


def test_the_folder_is_taken_from_the_recipes_place_and_survives_freezing(tmp_path):
    import yaml

    recipe = small_recipe(tmp_path, score={"cascade": {"calibration": "gates"}})
    assert recipe.score.cascade.calibration == str(tmp_path / "gates")
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe)), "frozen", tmp_path / "elsewhere") == recipe


def test_a_judge_is_asked_only_where_the_encoder_leaves_a_decision_open(gates, tmp_path):
    golden = {text.text: text.score for text in golden_texts()}
    with judging(lambda document, _: (200, digit(golden.get(document, 4)))) as (url, server):
        score = {
            "classifiers": ["fasttext", "embedding", "judge"],
            "cascade": {"calibration": str(gates), "judge_band": 0.5},
            "judge": {"llm": {"url": url, "model": "stub", "concurrency": 4}},
        }
        recipe, run = small_recipe(tmp_path, score=score), RunFolder(tmp_path / "run")
        write_documents(run, TEXTS)
        health: dict = {}
        for stage in build_stages(recipe, run, [None]):
            if stage.name.startswith("score-"):
                manifest = run_stage(stage)
                health = manifest.metrics.get("judge", health)
    embedded = {text for text, row in zip(TEXTS, rows(run, "embedding"), strict=True) if row["score"] is not None}
    assert UNSAFE[0] in embedded and SAFE[0] not in embedded
    assert {document for document in server.times if document not in golden} == embedded
    assert health["asked"] == len(embedded)
    assert [row["reason"] for row in rows(run, "judge")] == [
        None if text in embedded else "not_near_a_boundary" for text in TEXTS
    ]
    reached = [row["stage_reached"] for row in rows(run, "final")]
    assert reached[1] == "judge" and set(reached) <= {"fasttext", "embedding", "judge"}
    assert reached[0] == reached[2] == "fasttext"
