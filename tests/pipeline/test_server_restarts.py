"""A server of ours that is killed in the middle of a shard: started again, so often and no more, nothing lost or doubled.

The server is a stand-in that our own command line for vLLM starts.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from classifiers.errors import ModelError
from pipeline.stages.synthesis import draft_table
from rephrasers.servers import open_server
from tests.pipeline.stage_runs import run_stage
from tests.pipeline.tiny_tokenizer import save_tiny_tokenizer
from tests.pipeline.writing_stage import prepare, rows_of, stage_of

FAKE = Path(__file__).parents[1] / "rephrasers" / "fake_vllm.py"
WORDS = [f"page-{n}" for n in range(24)]
IN_FLIGHT = 3


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """(stage with this plan, lines of a file of the server's, ids of the documents)."""
    monkeypatch.setattr("rephrasers.servers.endpoint.BACK_OFF_SECONDS", 0.01)
    ids = prepare(tmp_path, WORDS)
    model = save_tiny_tokenizer(tmp_path / "model", "words")
    (model / "config.json").write_text("{}")
    (model / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {tmp_path} "$@"\n')
    python.chmod(0o755)

    def stage(die_at=(), bad_lives=(), **llm):
        (tmp_path / "plan.json").write_text(json.dumps({"die_at": list(die_at), "bad_lives": list(bad_lives)}))
        settings = {"kind": "vllm", "model": str(model), "server_python": str(python), "concurrency": IN_FLIGHT}
        return stage_of(tmp_path, settings | llm)

    def lines(name):
        path = tmp_path / name
        return path.read_text().split() if path.is_file() else []

    return stage, lines, ids


def check_whole(stage, manifest, ids):
    assert [row["source_id"] for row in rows_of(stage)] == ids
    assert manifest.rows.to_json() == {"in": 24, "kept": 24, "dropped": {}, "quarantined": {}}
    assert manifest.metrics["requests"]["answered"] == 24


def test_a_killed_server_is_started_again_and_nothing_is_lost_or_doubled(fake):
    make, lines, ids = fake
    stage = make(die_at=(6, 15))
    with stage.worker_context():
        manifest = run_stage(stage)
        address = open_server(stage.llm).base_url
        assert open_server(stage.llm).process.exit_status() is None and address
    check_whole(stage, manifest, ids)
    assert manifest.metrics["requests"]["server_restarts"] == 2 and len(lines("lives")) == 3
    again = {word: times for word, times in Counter(lines("asked")).items() if times > 1}
    assert 2 <= len(again) <= 2 * IN_FLIGHT, "only what was in flight is asked again"
    assert set(lines("answered")) == set(WORDS)
    assert max(Counter(lines("answered")).values()) <= 2
    assert 2 <= manifest.metrics["requests"]["fault_connection_lost"] <= 2 * IN_FLIGHT


def test_after_its_restarts_the_shard_fails_with_the_end_of_the_log_and_the_next_try_goes_on(fake):
    make, lines, ids = fake
    stage = make(die_at=(5, 9, 13))
    with stage.worker_context():
        with pytest.raises(ModelError) as caught:
            run_stage(stage)
        message = str(caught.value)
        assert "the vllm server ended with status -9 while it was in use; it was started again 2 times" in message
        assert "max_restarts" in message and "most often for memory" in message
        assert message.endswith("Engine core died at request 13"), "the log of its last life"
        assert not draft_table(stage.run, "refusal", 0).exists()
        received, asked = set(lines("answered")), len(lines("asked"))
        assert len(lines("lives")) == 3
        # the worker's next shard, or a rerun: one fresh start, and only what is missing
        manifest = run_stage(stage)
    check_whole(stage, manifest, ids)
    assert len(lines("lives")) == 4
    second = lines("asked")[asked:]
    assert len(received & set(second)) <= IN_FLIGHT and set(second) >= set(WORDS) - received


def test_a_server_that_does_not_come_up_again_is_not_tried_once_a_shard(fake):
    make, lines, _ = fake
    stage = make(die_at=(5,), bad_lives=(2, 3, 4))
    with stage.worker_context():
        with pytest.raises(
            ModelError, match=r"(?s)status -9 .*status 1 when it was started again.*CUDA error: device lost"
        ):
            run_stage(stage)
        with pytest.raises(ModelError, match=r"(?s)did not come up again.*device lost"):
            run_stage(stage)
    assert len(lines("lives")) == 2


def test_no_restart_where_none_is_allowed(fake):
    make, lines, _ = fake
    stage = make(die_at=(5,), max_restarts=0)
    with stage.worker_context(), pytest.raises(ModelError, match="started again 0 times in this shard"):
        run_stage(stage)
    assert len(lines("lives")) == 1
