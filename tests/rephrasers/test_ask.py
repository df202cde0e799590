"""AskLLM against a real HTTP server: order, errors, durability under SIGKILL, no document lost."""

import asyncio
import contextlib
import multiprocessing
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest
from ask_in_process import ask_about
from datatrove.data import Document
from datatrove.pipeline.inference.types import ServerError
from fault_stub import Reply, misbehaving

from classifiers.errors import DataError, ModelError, RecipeError
from rephrasers.answer_spill import AnswerSpill
from rephrasers.ask import AskLLM, cache_name
from rephrasers.models import ModelReference
from rephrasers.servers import ServerSettings, Serving
from rephrasers.servers.endpoint import GuardedClient

HERE = Path(__file__).parent


@contextlib.contextmanager
def stub(*arguments):
    """A running stub: (base url, its stdout)."""
    process = subprocess.Popen(
        [sys.executable, HERE / "chat_stub.py", *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process
    finally:
        process.kill()
        process.wait()


def requests_of(process):
    process.kill()
    return process.stdout.read().split()


def documents(*texts):
    return [Document(text=text, id=f"id-{i}", metadata={"number": i}) for i, text in enumerate(texts)]


def settings(url, **more):
    return ServerSettings(url=url, model="stub", **{"max_attempts": 2, **more})


def test_every_document_comes_out_in_order_with_answer_or_reason(tmp_path):
    texts = [f"word-{i}" for i in range(40)]
    texts[3], texts[5], texts[7], texts[9], texts[11] = "busy-3", "bad-5", "broken-7", "skip", "long " * 2000
    with stub() as (url, server):
        step = AskLLM(lambda d: None if d.text == "skip" else ask_about(d), settings(url), tmp_path / "work")
        out = list(step.run(documents(*texts)))
        asked = requests_of(server)
    assert [d.metadata["number"] for d in out] == list(range(40))
    assert [d.text for d in out] == texts
    for number, document in enumerate(out):
        answer, error = document.metadata.get("answer"), document.metadata.get("answer_error")
        if number == 5:
            assert (answer, error) == (None, "rejected: HTTP 400")
        elif number == 7:
            assert (answer, error) == (None, "invalid_json: 6 bytes that are not JSON")
            assert document.metadata["answer_faults"] == {"invalid_json": 1}
        elif number == 9:
            assert (answer, error) == (None, None)
        elif number == 11:
            assert answer is None and error == "too_long: 3341 tokens > 1536"
        else:
            assert answer == {
                "text": f"answer to {texts[number]}",
                "finish_reason": "stop",
                "usage": {"prompt_tokens": 3, "completion_tokens": 4},
                "retries": int(number == 3),
                **({"faults": {"unavailable": 1}} if number == 3 else {}),
            }
    assert step.counts == {
        **{"answered": 36, "not_asked": 1, "completion_tokens": 4 * 36, "answer_errors": 3, "fault_unavailable": 1},
        **{
            "answer_error_rejected": 1,
            "answer_error_invalid_json": 1,
            "answer_error_too_long": 1,
            "fault_invalid_json": 1,
        },
    }
    assert asked.count("busy-3") == 2, "a busy server is asked again"
    assert "long" not in asked and "skip" not in asked
    assert multiprocessing.active_children() == []


def test_after_sigkill_no_answered_request_is_asked_again(tmp_path):
    count, answered = 12, 5
    command = [sys.executable, "-m", "tests.rephrasers.ask_in_process"]
    with stub(answered) as (url, server):
        client = subprocess.Popen([*command, url, tmp_path / "work", str(count)], cwd=HERE.parents[1])
        # One request at a time: when the sixth arrives, five answers have been stored.
        first_run = [server.stdout.readline().strip() for _ in range(answered + 1)]
        client.kill()
        client.wait()
    assert first_run == [f"word-{i}" for i in range(answered + 1)]
    with stub() as (url, server):
        again = subprocess.run(
            [*command, url, tmp_path / "work", str(count)], cwd=HERE.parents[1], capture_output=True, text=True
        )
        second_run = requests_of(server)
    assert again.stdout.splitlines() == [f"id-{i} answer to word-{i}" for i in range(count)]
    assert second_run == [f"word-{i}" for i in range(answered, count)]


def test_sigterm_ends_a_waiting_client_at_once(tmp_path):
    command = [sys.executable, "-m", "tests.rephrasers.ask_in_process"]
    with stub(2) as (url, server):
        client = subprocess.Popen([*command, url, tmp_path / "work", "9"], cwd=HERE.parents[1])
        for _ in range(3):
            server.stdout.readline()
        client.terminate()
        try:
            assert client.wait(40) == 143
        finally:
            client.kill()


def test_duplicate_ids_are_refused(tmp_path):
    twice = [Document(text="a", id="same"), Document(text="b", id="same")]
    with stub() as (url, _), pytest.raises(DataError, match="'same' occurs twice"):
        list(AskLLM(ask_about, settings(url), tmp_path).run(twice))


def test_an_answer_that_is_lost_breaks_the_run(tmp_path, monkeypatch):
    put = AnswerSpill.put
    monkeypatch.setattr(AnswerSpill, "put", lambda self, index, answer: index == 2 or put(self, index, answer))
    with stub() as (url, _), pytest.raises(DataError, match="1 of 4 documents got neither an answer nor a reason"):
        list(AskLLM(ask_about, settings(url), tmp_path).run(documents("a", "b", "c", "d")))


def test_answers_that_cannot_be_read_again_are_named(tmp_path):
    with stub() as (url, _):
        step = AskLLM(ask_about, settings(url), tmp_path)
        list(step.run(documents("a")))
        [cache] = tmp_path.rglob("replay.sqlite3")
        cache.write_bytes(b"no database" * 100)
        with pytest.raises(DataError, match=r"replay\.sqlite3: the answers that were kept cannot be read .*delete it"):
            list(step.run(documents("a")))


def test_a_dead_endpoint_is_a_model_error_without_document_text(tmp_path):
    with stub() as (url, server):
        server.kill()
        server.wait()
        with pytest.raises(ModelError, match="fails since 2 attempts") as caught:
            list(AskLLM(ask_about, settings(url), tmp_path).run(documents("secret words")))
    assert "secret" not in str(caught.value)


def test_the_key_comes_from_the_named_variable(tmp_path, monkeypatch):
    with stub() as (url, _):
        step = AskLLM(ask_about, settings(url, api_key_variable="STUB_KEY"), tmp_path / "work")
        monkeypatch.delenv("STUB_KEY", raising=False)
        with pytest.raises(RecipeError, match="export STUB_KEY="):
            list(step.run(documents("key-a")))
        monkeypatch.setenv("STUB_KEY", "wrong")
        with pytest.raises(ModelError, match="HTTP 401: the key is missing or wrong"):
            list(step.run(documents("key-a")))
        monkeypatch.setenv("STUB_KEY", "right")
        assert next(iter(step.run(documents("key-a")))).metadata["answer"]["text"] == "answer to key-a"


def test_what_is_wrong_with_the_endpoint_costs_no_document():
    """A status that the endpoint gives for all documents ends the run; one that passes is tried again."""

    async def faults_of(*statuses):
        serving = Serving("http://gate:80", "stub", ModelReference("stub", "endpoint", "stub"), None)
        client = GuardedClient(None, 0, settings("http://gate:80"), serving)
        return [client._fault_of_status(httpx.Response(status), Counter()) for status in statuses]

    elsewhere, permanent, credit, *passing, refused = asyncio.run(faults_of(301, 308, 402, 408, 409, 425, 502, 413))
    assert all(isinstance(fault, ServerError) for fault in (elsewhere, permanent, credit))
    assert "give the final address" in str(elsewhere.error) and "give the final address" in str(permanent.error)
    assert "no credit left" in str(credit.error)
    assert [fault.kind for fault in passing] == ["timeout", "unavailable", "unavailable", "server_error"]
    assert "rejected: HTTP 413" in str(refused.error)


@pytest.mark.parametrize("header", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_pause_of_nothing_does_not_use_up_all_tries_at_once(monkeypatch, header):
    """Retry-After 0, or the date of a server whose clock is behind ours: the request backs off by itself."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    async def refused(*_):
        serving = Serving("http://gate:80", "stub", ModelReference("stub", "endpoint", "stub"), None)
        client = GuardedClient(None, 0, settings("http://gate:80", max_attempts=4), serving)

        async def answer(*_):
            raise client._fault_of_status(httpx.Response(503, headers={"Retry-After": header}), Counter())

        client._try = answer
        await client._make_request({"messages": []})

    monkeypatch.setattr("rephrasers.servers.endpoint.asyncio.sleep", sleep)
    with pytest.raises(ServerError, match="4 attempts at one request"):
        asyncio.run(refused())
    assert len(waits) == 3 and all(wait >= 0.25 * 2**tries for tries, wait in enumerate(waits))


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": "3"}, {}, None]
)
def test_an_answer_is_not_lost_for_what_the_server_does_not_count(tmp_path, usage):
    choice = {"message": {"content": "An answer."}, "finish_reason": "stop"}
    with misbehaving(lambda *_: Reply({"choices": [choice], "usage": usage})) as server:
        [document] = AskLLM(ask_about, settings(server.url), tmp_path).run(documents("a"))
    assert document.metadata["answer"]["text"] == "An answer."


def test_a_request_without_answer_times_out(tmp_path):
    with stub(0) as (url, _):
        step = AskLLM(ask_about, settings(url, request_timeout_seconds=0.3, max_attempts=1), tmp_path)
        [document] = step.run(documents("a"))
    assert document.metadata["answer_error"] == "timeout: no answer within 0.3 s"


def test_nothing_to_ask_starts_no_server(tmp_path):
    unreachable = ServerSettings(url="http://127.0.0.1:9", model="stub")
    out = list(AskLLM(lambda _: None, unreachable, tmp_path).run(documents("a", "b")))
    assert [d.text for d in out] == ["a", "b"]


def test_cache_name_depends_on_model_revision_sampling_and_prompts():
    base, model = ServerSettings(), ModelReference("org/name", "abc", "org/name@abc")
    names = {
        cache_name(base, model, ["p"]),
        cache_name(base, ModelReference("org/other", "abc", "x"), ["p"]),
        cache_name(base, ModelReference("org/name", "abd", "x"), ["p"]),
        cache_name(base.model_copy(update={"temperature": 0.1}), model, ["p"]),
        cache_name(base.model_copy(update={"max_tokens": 7}), model, ["p"]),
        cache_name(base, model, ["q"]),
    }
    assert len(names) == 6
    assert cache_name(base.model_copy(update={"concurrency": 3}), model, ["p"]) in names


def test_metadata_that_json_cannot_hold_is_named(tmp_path):
    with AnswerSpill(tmp_path / "spill") as spill:
        with pytest.raises(DataError, match="document a: its metadata cannot be kept"):
            spill.add(Document(text="x", id="a", metadata={"when": object()}))
        assert spill.add(Document(text="x\ud800\n", id="b", metadata={"n": [1, None, "ü"]})) == 0
        spill.put(0, {"text": "y"})
        assert list(spill.read()) == [
            (Document(text="x\ud800\n", id="b", metadata={"n": [1, None, "ü"]}), {"text": "y"})
        ]
