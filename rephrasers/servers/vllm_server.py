"""vLLM's OpenAI-compatible server, started as a module and without the model's own code unless it is allow-listed."""

import importlib.util
import sys

from classifiers.errors import DependencyError
from rephrasers.models import ModelReference
from rephrasers.servers.process import ServerCommand
from rephrasers.servers.settings import ServerSettings


def vllm_is_installed() -> bool:
    """True where `import vllm` would find a package; nothing is imported."""
    return importlib.util.find_spec("vllm") is not None


def vllm_command(settings: ServerSettings, model: ModelReference, port: int) -> ServerCommand:
    """The command line. Started by module, since the `vllm` command asks for a distribution that CPU builds lack.

    Raises DependencyError where vLLM is not installed.
    """
    if not vllm_is_installed():
        raise DependencyError("kind 'vllm' needs vLLM: pip install 'safetrove[vllm]' (or kind 'transformers' on CPU)")
    arguments = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model.path_or_id]
    arguments += ["--served-model-name", model.path_or_id, "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--dtype", settings.dtype, "--max-model-len", str(settings.max_context)]
    arguments += ["--max-num-seqs", str(settings.concurrency)]
    if not model.is_local:
        arguments += ["--revision", model.revision]
    if f"{model.path_or_id}@{model.revision}" in settings.allow_remote_code_of:
        arguments.append("--trust-remote-code")
    environment = {"USE_TF": "0", "VLLM_NO_USAGE_STATS": "1"}
    if model.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    return ServerCommand([*arguments, *settings.extra_arguments], environment)
