"""A writing stage whose server misbehaves in every way: nothing lost or doubled, each kind counted, memory and waits bounded."""

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from classifiers.errors import ModelError
from pipeline.stages.synthesis import draft_table
from tests.pipeline.stage_runs import run_stage
from tests.pipeline.writing_stage import DIALOGUE, prepare, rows_of, stage_of, word_of
from tests.rephrasers.fault_stub import Reply, misbehaving, said

FAULTS = {
    "too_many_requests": Reply(status=429),
    "unavailable": Reply(status=503, headers={"Retry-After": "0"}),
    "server_error": Reply(status=500),
    "timeout": Reply(held=True),
    "connection_lost": Reply(said("never whole").body, cut=True),
    "oversized": Reply(said("x" * 10**6).body),
    "invalid_json": Reply(b'{"choices": [{"mess'),
    "no_choices": Reply({"choices": [], "usage": {}}),
    "no_content": Reply({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}),
    "not_a_completion": Reply({"choices": [{"message": {"content": ["a", "list"]}, "finish_reason": "stop"}]}),
}
# With these a request that never gets better stops the shard: see test_a_storm_without_end.
OF_THE_SERVER = ("too_many_requests", "unavailable")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr("rephrasers.servers.endpoint.BACK_OFF_SECONDS", 0.001)


def good(word):
    return said(DIALOGUE.format(word=word))


def answer(prompt, times):
    """once-KIND: trouble at the first request; ever-KIND: at each; else good."""
    often, _, kind = word_of(prompt).partition("-")
    if often == "ever" or (often == "once" and times == 1):
        return FAULTS[kind]
    return good(word_of(prompt))


def test_each_kind_is_mended_or_quarantined_under_its_own_name(tmp_path):
    lasting = [kind for kind in FAULTS if kind not in OF_THE_SERVER]
    words = ["first", *(f"once-{kind}" for kind in FAULTS), *(f"ever-{kind}" for kind in lasting), "last"]
    ids = prepare(tmp_path, words)
    with misbehaving(answer) as server:
        stage = stage_of(tmp_path, {"url": server.url, "request_timeout_seconds": 3})
        manifest = run_stage(stage)
        asked = {word_of(prompt): times for prompt, times in server.asked.items()}
    rows = rows_of(stage)
    assert [row["source_id"] for row in rows] == [i for i, w in zip(ids, words, strict=True) if "ever" not in w]
    assert all(row["turns"] for row in rows)
    assert manifest.rows.quarantined == dict.fromkeys(lasting, 1)
    assert manifest.rows.rows_in == len(words) == manifest.rows.kept + len(lasting) and manifest.rows.missing() == 0
    assert asked == {word: 3 if "ever" in word else 2 if "once" in word else 1 for word in words}
    assert manifest.metrics["requests"] == {
        **{"answered": len(rows), "completion_tokens": 4 * len(rows), "answer_errors": len(lasting)},
        # one was mended; of three in vain the last is the reason
        **{f"fault_{kind}": 1 + 2 * (kind in lasting) for kind in FAULTS},
        **{f"answer_error_{kind}": 1 for kind in lasting},
    }
    quarantine = [json.loads(line) for line in stage.run.quarantine("refuse", 0).read_text().splitlines()]
    assert [entry["reason"] for entry in quarantine] == lasting
    assert not any("neighbour" in json.dumps(entry) or "xxx" in json.dumps(entry) for entry in quarantine)


def test_an_endless_answer_is_not_read_to_its_end(tmp_path):
    prepare(tmp_path, ["endless", "good"])

    def endless(prompt, _):
        return Reply(b" " * 65536, endless=True) if word_of(prompt) == "endless" else good("good")

    with misbehaving(endless) as server:
        manifest = run_stage(stage_of(tmp_path, {"url": server.url}))
        sent = server.sent
    assert manifest.rows.quarantined == {"oversized": 1} and manifest.rows.kept == 1
    # three tries of 80 KiB, and what lay in the sockets' buffers
    assert 3 * 80 * 1024 < sent < 64 << 20


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_in_a_storm_the_pause_that_is_asked_for_holds_for_all(tmp_path, form):
    concurrency, pause = 8, 1
    prepare(tmp_path, [f"page-{n}" for n in range(40)])
    began = []

    def storm(prompt, _):
        began.append(time.monotonic())
        if time.monotonic() - began[0] < pause:
            until = format_datetime(datetime.now(UTC) + timedelta(seconds=pause + 1), usegmt=True)
            return Reply(status=429, headers={"Retry-After": str(pause) if form == "seconds" else until})
        return good(word_of(prompt))

    with misbehaving(storm) as server:
        manifest = run_stage(stage_of(tmp_path, {"url": server.url, "concurrency": concurrency}))
        refused = server.statuses.count(429)
    assert manifest.rows.kept == 40
    assert manifest.metrics["requests"]["fault_too_many_requests"] == refused <= concurrency
    assert sorted(server.statuses) == [200] * 40 + [429] * refused


@pytest.mark.parametrize("status", [429, 503])
def test_a_storm_without_end_stops_the_shard_and_loses_nothing(tmp_path, status):
    words = [f"page-{n}" for n in range(20)]
    ids = prepare(tmp_path, words)
    answered = set()

    def until(limit):
        def reply(prompt, times):
            if word_of(prompt) == words[0] and times == 1:
                return FAULTS["no_choices"]
            if len(answered) >= limit:
                return Reply(status=status, headers={"Retry-After": "0"})
            answered.add(word_of(prompt))
            return good(word_of(prompt))

        return reply

    with misbehaving(until(7)) as server:
        stage = stage_of(tmp_path, {"url": server.url})
        with pytest.raises(
            ModelError, match=rf"(?s)3 attempts at one request \(\w+: HTTP {status}\).*Answers so far are kept"
        ):
            run_stage(stage)
        assert len(server.statuses) <= 20 * 3
    assert not draft_table(stage.run, "refusal", 0).exists()
    before = set(answered)
    with misbehaving(until(10**9)) as server:
        stage = stage_of(tmp_path, {"url": server.url})
        manifest = run_stage(stage)
        asked = {word_of(prompt): times for prompt, times in server.asked.items()}
    assert words[0] not in asked and manifest.metrics["requests"]["fault_no_choices"] == 1, "counted before the stop"
    # what was received is not asked for again; the last few may have been on their way when the shard was stopped
    assert len(before & set(asked)) <= 4 and set(asked.values()) == {1}
    assert set(asked) >= set(words) - before
    assert [row["source_id"] for row in rows_of(stage)] == ids
    assert manifest.rows.kept == 20 and manifest.metrics["requests"]["answered"] == 20
