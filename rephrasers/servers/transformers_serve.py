"""`transformers serve`: the server for machines without a GPU, with continuous batching and a bounded cache, or without
it for its decision endpoint (beside batched generation most of that endpoint's answers were seen to be wrong)."""

import json
import math
import sys
from pathlib import Path

from classifiers.errors import DependencyError, ModelError
from rephrasers.models import ModelReference
from rephrasers.servers.process import ServerCommand
from rephrasers.servers.settings import ServerSettings

CACHE_BLOCK_TOKENS = 256
# 64 blocks keep the 135M writer under 2 GB; without a bound the cache takes half of the machine.
MINIMUM_CACHE_BLOCKS = 64
# Questions of type score are answered with the digits of the levels, not with the letters that are the server's default.
DECISION_CONFIG = Path(__file__).with_name("decision_config.json")


def served_name(model: ModelReference) -> str:
    """The model name that requests must carry: the server is pinned to it."""
    return model.path_or_id if model.is_local else f"{model.path_or_id}@{model.revision}"


def cache_blocks(max_context: int) -> int:
    """Blocks of the key-value cache: room for two full contexts, since one that does not fit kills the worker."""
    return max(MINIMUM_CACHE_BLOCKS, 2 * math.ceil(max_context / CACHE_BLOCK_TOKENS))


def transformers_command(settings: ServerSettings, model: ModelReference, port: int) -> ServerCommand:
    """The command line. Raises DependencyError without the serving extra, ModelError where it could not sample."""
    try:
        import fastapi  # noqa: F401
        import transformers  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise DependencyError(
            f"`transformers serve` needs {error.name}: pip install 'transformers[serving]'"
        ) from error
    _check_sampling(settings, model)
    arguments = [sys.executable, "-m", "transformers.cli.transformers", "serve", served_name(model)]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--dtype", settings.dtype]
    if settings.continuous_batching:
        arguments += ["--continuous-batching", "--cb-block-size", str(CACHE_BLOCK_TOKENS)]
        arguments += ["--cb-num-blocks", str(cache_blocks(settings.max_context))]
    else:
        arguments += ["--decision-config", str(DECISION_CONFIG)]
    if f"{model.path_or_id}@{model.revision}" in settings.allow_remote_code_of:
        arguments.append("--trust-remote-code")
    environment = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "USE_TF": "0", "TOKENIZERS_PARALLELISM": "false"}
    # Threads that spin while they wait take the cores from the client and from each other: seen to cost ten times.
    environment |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    if model.is_local:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return ServerCommand([*arguments, *settings.extra_arguments], environment)


def _check_sampling(settings: ServerSettings, model: ModelReference) -> None:
    """This server samples only where the model's folder says so, and is silently greedy elsewhere."""
    if settings.temperature == 0 or not model.is_local:
        return
    path = Path(model.path_or_id) / "generation_config.json"
    if not path.is_file() or not json.loads(path.read_text(encoding="utf-8")).get("do_sample"):
        raise ModelError(
            f"temperature is {settings.temperature}, but `transformers serve` would decode greedily: {path} does not "
            'say "do_sample": true. Add it, or set temperature 0, or use vllm.'
        )
