"""SGLang's OpenAI-compatible server, without the model's own code unless it is allow-listed.

Written after its documentation (0.5); it needs a GPU and was never run by us. It may live in an environment of its own.
"""

import importlib.util
import sys

from classifiers.errors import DependencyError
from rephrasers.models import ModelReference
from rephrasers.servers.interpreter import find_python
from rephrasers.servers.process import ServerCommand
from rephrasers.servers.settings import ServerSettings


def sglang_python(settings: ServerSettings) -> str:
    """The interpreter that starts SGLang: `server_python`, else this one.

    Raises DependencyError where it does not exist or, for this one, has no SGLang.
    """
    if settings.server_python is not None:
        return find_python(settings.server_python, "server_python")
    if importlib.util.find_spec("sglang") is None:
        raise DependencyError(
            "kind 'sglang' needs SGLang and a GPU: pip install sglang, or name the python of an environment that has it in "
            "`server_python` (or take kind 'vllm', or 'transformers' on CPU)"
        )
    return sys.executable


def sglang_command(settings: ServerSettings, model: ModelReference, port: int) -> ServerCommand:
    """The command line. Prompts that are too long are refused, not cut: `--allow-auto-truncate`, which datatrove's server
    class passes, is left out. Raises DependencyError where SGLang is not installed.
    """
    arguments = [sglang_python(settings), "-m", "sglang.launch_server", "--model-path", model.path_or_id]
    arguments += ["--served-model-name", model.path_or_id, "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--dtype", settings.dtype, "--context-length", str(settings.max_context)]
    arguments += ["--max-running-requests", str(settings.concurrency), "--log-level-http", "warning"]
    if not model.is_local:
        arguments += ["--revision", model.revision]
    if f"{model.path_or_id}@{model.revision}" in settings.allow_remote_code_of:
        arguments.append("--trust-remote-code")
    environment = {"USE_TF": "0"}
    if model.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    return ServerCommand([*arguments, *settings.extra_arguments], environment)
