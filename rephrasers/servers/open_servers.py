"""One server for as long as a `with` block lasts, found again by every task of the process that wants the same."""

import http.client
import json
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from loguru import logger

from rephrasers.models import ModelReference, resolve_model
from rephrasers.servers.process import ServerProcess, ask_directly, free_port
from rephrasers.servers.sampling import sampling_notes
from rephrasers.servers.settings import ServerSettings
from rephrasers.servers.sglang_server import sglang_command
from rephrasers.servers.transformers_serve import served_name, transformers_command
from rephrasers.servers.vllm_server import vllm_command, vllm_is_installed

# What a client may choose for itself; everything else must agree for an open server to be used.
_CLIENT_SIDE = {
    "kind", "concurrency", "max_attempts", "max_restarts", "request_timeout_seconds", "start_timeout_seconds",
    "max_tokens", "tokenizer", "stop", "send_seeds",
}  # fmt: skip


@dataclass(frozen=True)
class Serving:
    """A server that answers. process is None for an endpoint, which others run."""

    base_url: str
    model_name: str
    model: ModelReference
    process: ServerProcess | None


_open: dict[str, Serving] = {}


def choose_server(settings: ServerSettings) -> Literal["vllm", "sglang", "transformers", "endpoint"]:
    """The kind that "auto" means here: the endpoint if a URL is given, vLLM where installed, else transformers."""
    if settings.kind != "auto":
        return settings.kind
    if settings.url is not None:
        return "endpoint"
    return "vllm" if settings.server_python is not None or vllm_is_installed() else "transformers"


def model_of(settings: ServerSettings) -> ModelReference:
    """The model that will answer. An endpoint's is known by its name alone: its address may change between runs."""
    if choose_server(settings) == "endpoint":
        return ModelReference(settings.model, "endpoint", f"{settings.model} behind an endpoint")
    return resolve_model(settings.model)


def open_server(settings: ServerSettings) -> Serving | None:
    """The server with these settings that a `serving` block of this process keeps open, or None."""
    return _open.get(_key(settings))


@contextmanager
def serving(settings: ServerSettings, log_file: str | Path) -> Iterator[str]:
    """Starts the server, yields its base URL when it answers, and stops it however the block ends.

    Tasks of this process that ask for the same settings use it instead of starting their own. A block inside another
    with the same settings shares the outer one's server. A SIGTERM inside the block stops the server and exits with
    143; a SIGKILL of this process takes the server with it (Linux).

    Under continuous batching `transformers serve` takes temperature and top_p from its first request for good; that
    request is sent here, with the settings' values.

    Raises ModelError (with the log's last lines) where the server does not come up, DependencyError, and what
    `resolve_model` raises.
    """
    key = _key(settings)
    if key in _open:
        yield _open[key].base_url
        return
    with ExitStack() as stack:
        stack.enter_context(_sigterm_as_exit())
        opened = _start(settings, Path(log_file), stack)
        _open[key] = opened
        stack.callback(_open.pop, key)
        yield opened.base_url


def _start(settings: ServerSettings, log_file: Path, stack: ExitStack) -> Serving:
    kind, model = choose_server(settings), model_of(settings)
    if kind == "endpoint":
        assert settings.url is not None  # checked by ServerSettings
        return Serving(settings.url.rstrip("/"), settings.model, model, None)
    for note in sampling_notes(settings, kind):
        logger.warning(note)
    port = free_port()
    if kind == "vllm":
        name, command = model.path_or_id, vllm_command(settings, model, port)
    elif kind == "sglang":
        name, command = model.path_or_id, sglang_command(settings, model, port)
    else:
        name, command = served_name(model), transformers_command(settings, model, port)
    process = ServerProcess(kind, command, f"http://127.0.0.1:{port}", log_file)
    stack.callback(process.stop)
    logger.info(f"{kind} server for {model.description} starts on port {port}, log in {log_file}")
    process.wait_until_healthy(settings.start_timeout_seconds)
    opened = Serving(process.base_url, name, model, process)
    warm_up(settings, opened, process)
    process.came_up = True
    logger.info(f"{kind} server on port {port} is ready")
    return opened


def warm_up(settings: ServerSettings, server: Serving, process: ServerProcess) -> None:
    """The first request: fixes the sampling, and shows that the server writes and not only listens. Raises ModelError."""
    body = {
        "model": server.model_name,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 4,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
    }
    request = urllib.request.Request(
        f"{server.base_url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        json.loads(ask_directly(request, settings.start_timeout_seconds)[1])["choices"][0]["message"]
    except (http.client.HTTPException, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise process.failure(f"listens but did not answer its first request ({error})") from error


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Inside, an unhandled SIGTERM (Slurm's time limit, `kill`) raises SystemExit, so that `finally` parts run."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _key(settings: ServerSettings) -> str:
    fields = settings.model_dump(mode="json", exclude=_CLIENT_SIDE)
    return json.dumps({**fields, "kind": choose_server(settings)}, sort_keys=True)
