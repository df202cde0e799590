"""Seeds and stop strings: in each request where they are asked for, cut here where a server ignores them, said where not."""

import json
from contextlib import contextmanager

import pytest
from datatrove.data import Document

from rephrasers.ask import AskLLM
from rephrasers.keyed_draws import request_seed
from rephrasers.servers import ServerSettings
from rephrasers.servers.sampling import cut_at_stop, sampling_notes
from tests.chat_server import ChatHandler, completion, running


@contextmanager
def recording_server():
    """(url, request bodies by prompt) of a server that ignores stop strings."""
    bodies = {}

    class Handler(ChatHandler):
        def answer(self, body):
            request = json.loads(body)
            bodies[request["messages"][-1]["content"]] = request
            self.reply(completion("first\nEND\nsecond", "length"))

    with running(Handler) as url:
        yield url, bodies


def ask(folder, seed, **settings):
    with recording_server() as (url, bodies):
        step = AskLLM(
            lambda d: [{"role": "user", "content": d.text}],
            ServerSettings(url=url, model="m", temperature=0.3, **settings),
            folder,
            seed=seed,
        )
        out = list(step.run([Document(text="a", id="id-a"), Document(text="b", id="id-b")]))
    return out, bodies


def test_each_request_carries_its_own_seed_and_the_stop_strings(tmp_path):
    out, bodies = ask(tmp_path, 7, stop=("END", "never"))
    assert {name: body["seed"] for name, body in bodies.items()} == {
        "a": request_seed(7, "id-a"),
        "b": request_seed(7, "id-b"),
    }
    assert all(body["stop"] == ["END", "never"] and body["temperature"] == 0.3 for body in bodies.values())
    for document in out:
        assert document.metadata["answer"]["text"] == "first\n"
        assert document.metadata["answer"]["finish_reason"] == "stop"


def test_nothing_is_sent_that_was_not_asked_for(tmp_path):
    for folder, seed, settings in (("a", None, {}), ("b", 7, {"send_seeds": False})):
        out, bodies = ask(tmp_path / folder, seed, **settings)
        assert not any({"seed", "stop"} & body.keys() for body in bodies.values())
        assert out[0].metadata["answer"]["text"] == "first\nEND\nsecond"


def test_seeds_differ_by_document_and_by_recipe_and_are_31_bits():
    seeds = [request_seed(seed, f"doc-{n}") for seed in (0, 1) for n in range(500)]
    assert len(set(seeds)) == 1000 and all(0 <= seed < 2**31 for seed in seeds)


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((), ("a b c", "length")),
        (("b", "a b"), ("", "stop")),
        (("c", "b"), ("a ", "stop")),
        (("x",), ("a b c", "length")),
    ],
)
def test_the_first_stop_string_ends_the_text(stop, expected):
    assert cut_at_stop("a b c", "length", stop) == expected


def test_what_a_server_ignores_is_said_before_it_is_asked():
    settings = ServerSettings(temperature=0.7, stop=("END",))
    first, seeds, stop = sampling_notes(settings, "transformers")
    assert (
        "first request" in first
        and "0.7" in first
        and "not make answers repeatable" in seeds
        and "stop strings" in stop
    )
    assert sampling_notes(settings, "vllm") == sampling_notes(settings, "endpoint") == []
    assert sampling_notes(ServerSettings(temperature=0), "transformers") == []
    [alone] = sampling_notes(settings.model_copy(update={"continuous_batching": False}), "transformers")
    assert "one request at a time" in alone


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty stop string"):
        ServerSettings(stop=("",))
