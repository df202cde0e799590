"""How SGLang is started; the real thing needs a GPU and was never run."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from datatrove.data import Document

from classifiers.errors import DependencyError, ModelError
from rephrasers.ask import AskLLM
from rephrasers.models import resolve_model
from rephrasers.servers import ServerSettings, choose_server, serving
from rephrasers.servers.sglang_server import sglang_command, sglang_python
from tests.pipeline.tiny_tokenizer import save_tiny_tokenizer

HUB = "org/name@abc123"
FAKE = Path(__file__).with_name("fake_vllm.py")


def test_the_command_line_binds_to_this_machine_and_runs_no_foreign_code():
    settings = ServerSettings(kind="sglang", model=HUB, server_python=sys.executable, concurrency=7, max_context=4096)
    assert choose_server(settings) == "sglang"
    command = sglang_command(settings, resolve_model(HUB), 1234)
    assert command.arguments[:3] == [sys.executable, "-m", "sglang.launch_server"]
    text = " ".join(command.arguments)
    for part in (
        "--model-path org/name --served-model-name org/name --host 127.0.0.1 --port 1234",
        "--dtype bfloat16 --context-length 4096 --max-running-requests 7",
        "--revision abc123",
    ):
        assert part in text
    assert "trust-remote-code" not in text and "truncate" not in text
    allowed = settings.model_copy(update={"allow_remote_code_of": (HUB,), "extra_arguments": ("--tp", "2")})
    text = " ".join(sglang_command(allowed, resolve_model(HUB), 1).arguments)
    assert "--trust-remote-code" in text and text.endswith("--tp 2")


def test_a_missing_sglang_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = ServerSettings(kind="sglang", model=HUB)
    with pytest.raises(DependencyError, match=r"needs SGLang and a GPU: pip install sglang, or .*`server_python`"):
        sglang_python(settings)
    with pytest.raises(DependencyError, match="pip install sglang"), serving(settings, tmp_path / "log"):
        pass
    with pytest.raises(DependencyError, match="server_python names '/no/such/python'"):
        sglang_python(settings.model_copy(update={"server_python": "/no/such/python"}))


@pytest.mark.skipif(importlib.util.find_spec("sglang") is not None, reason="SGLang is installed here")
def test_an_environment_without_sglang_is_reported_with_the_servers_own_words(tmp_path):
    model = save_tiny_tokenizer(tmp_path / "model", "words")
    (model / "config.json").write_text("{}")
    settings = ServerSettings(kind="sglang", model=str(model), server_python=sys.executable)
    with pytest.raises(
        ModelError, match=r"(?s)the sglang server ended with status 1 .*a package is missing.*No module named"
    ):
        with serving(settings, tmp_path / "server.log"):
            pass


def test_a_server_that_takes_this_command_line_is_asked_and_stopped(tmp_path):
    """A stand-in, started by our command line through the settings' python."""
    model = save_tiny_tokenizer(tmp_path / "model", "words")
    (model / "config.json").write_text("{}")
    (model / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    (tmp_path / "plan.json").write_text(json.dumps({"die_at": [], "bad_lives": []}))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {tmp_path} "$@"\n')
    python.chmod(0o755)
    settings = ServerSettings(kind="sglang", model=str(model), server_python=str(python))
    step = AskLLM(lambda d: [{"role": "user", "content": d.text}], settings, tmp_path / "work")
    [out] = step.run([Document(text="Page about bees and honey.", id="a")])
    assert out.metadata["answer"]["text"].startswith("User: ")
    assert (tmp_path / "asked").read_text() == "bees\n"
    assert not Path(f"/proc/{(tmp_path / 'lives').read_text().strip()}").exists()
