"""How vLLM is started: by which python, with which environment; the real thing is in tests/with_vllm."""

import sys

import pytest

from classifiers.errors import DependencyError
from rephrasers.models import resolve_model
from rephrasers.servers import ServerSettings, choose_server
from rephrasers.servers.transformers_serve import transformers_command
from rephrasers.servers.vllm_server import vllm_command, vllm_python

HUB = "org/name@abc123"


@pytest.fixture(autouse=True)
def no_vllm_here(monkeypatch):
    monkeypatch.delenv("SAFETROVE_VLLM_PYTHON", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_the_python_is_the_settings_then_the_variables_then_ours(monkeypatch, tmp_path):
    with pytest.raises(DependencyError, match=r"pip install 'safetrove\[vllm\]', or name the python .*VLLM_PYTHON"):
        vllm_python(ServerSettings(kind="vllm"))
    monkeypatch.setenv("SAFETROVE_VLLM_PYTHON", sys.executable)
    assert vllm_python(ServerSettings()) == sys.executable and choose_server(ServerSettings()) == "vllm"
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\n")
    with pytest.raises(DependencyError, match=r"server_python names .*give the path of a python"):
        vllm_python(ServerSettings(server_python=str(other)))
    other.chmod(0o755)
    assert vllm_python(ServerSettings(server_python=str(other))) == str(other)
    monkeypatch.setenv("SAFETROVE_VLLM_PYTHON", "/no/such/python")
    with pytest.raises(DependencyError, match=r"\$SAFETROVE_VLLM_PYTHON names '/no/such/python'"):
        vllm_python(ServerSettings())
    monkeypatch.delenv("SAFETROVE_VLLM_PYTHON")
    assert choose_server(ServerSettings()) == "transformers"
    assert choose_server(ServerSettings(server_python=str(other))) == "vllm"


def test_the_command_starts_the_module_and_leaves_a_set_environment_alone(monkeypatch):
    settings = ServerSettings(
        kind="vllm", model=HUB, server_python=sys.executable, concurrency=7, extra_arguments=("--enforce-eager",)
    )
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "9")
    command = vllm_command(settings, resolve_model(HUB), 1234)
    assert command.arguments[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    text = " ".join(command.arguments)
    assert "--max-num-seqs 7" in text and "--revision abc123" in text and text.endswith("--enforce-eager")
    assert "trust-remote-code" not in text
    assert "VLLM_CPU_KVCACHE_SPACE" not in command.environment
    assert command.environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_transformers_without_batching_is_given_the_digits_of_the_levels():
    settings = ServerSettings(model=HUB, continuous_batching=False)
    arguments = transformers_command(settings, resolve_model(HUB), 1).arguments
    assert "--decision-config" in arguments and not any(a.startswith("--c") for a in arguments)
