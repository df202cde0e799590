"""vLLM's OpenAI-compatible server, started as a module and without the model's own code unless it is allow-listed.

It may live in an environment of its own: vLLM pins its torch and transformers.
"""

import importlib.util
import os
import sys

from classifiers.errors import DependencyError
from rephrasers.models import ModelReference
from rephrasers.servers.interpreter import find_python
from rephrasers.servers.process import ServerCommand
from rephrasers.servers.settings import ServerSettings

PYTHON_VARIABLE = "SAFETROVE_VLLM_PYTHON"
# Read by vLLM's CPU build alone: GiB of key-value cache (else half of the machine), and no binding to cores, which other
# processes use too. A value in the environment wins. Threads that wait do not spin, as in `transformers_serve`.
CPU_DEFAULTS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
}


def vllm_is_installed() -> bool:
    """True where $SAFETROVE_VLLM_PYTHON names an interpreter, or `import vllm` would find a package; nothing is imported."""
    return bool(os.environ.get(PYTHON_VARIABLE)) or importlib.util.find_spec("vllm") is not None


def vllm_python(settings: ServerSettings) -> str:
    """The interpreter that starts vLLM: `server_python`, else $SAFETROVE_VLLM_PYTHON, else this one.

    Raises DependencyError where it does not exist or, for this one, has no vLLM.
    """
    named = settings.server_python or os.environ.get(PYTHON_VARIABLE)
    if named is None:
        if not vllm_is_installed():
            raise DependencyError(
                "kind 'vllm' needs vLLM: pip install 'safetrove[vllm]', or name the python of an environment that has it "
                f"in `server_python` or ${PYTHON_VARIABLE} (or take kind 'transformers' on CPU)"
            )
        return sys.executable
    return find_python(named, "server_python" if settings.server_python else f"${PYTHON_VARIABLE}")


def vllm_command(settings: ServerSettings, model: ModelReference, port: int) -> ServerCommand:
    """The command line. Started by module, since the `vllm` command asks for a distribution that CPU builds lack.

    Raises DependencyError where vLLM is not installed.
    """
    arguments = [vllm_python(settings), "-m", "vllm.entrypoints.openai.api_server", "--model", model.path_or_id]
    arguments += ["--served-model-name", model.path_or_id, "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--dtype", settings.dtype, "--max-model-len", str(settings.max_context)]
    arguments += ["--max-num-seqs", str(settings.concurrency)]
    if not model.is_local:
        arguments += ["--revision", model.revision]
    if f"{model.path_or_id}@{model.revision}" in settings.allow_remote_code_of:
        arguments.append("--trust-remote-code")
    environment = {"USE_TF": "0", "VLLM_NO_USAGE_STATS": "1"}
    environment |= {name: value for name, value in CPU_DEFAULTS.items() if name not in os.environ}
    if model.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    return ServerCommand([*arguments, *settings.extra_arguments], environment)
