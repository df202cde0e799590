"""A server's process: started with a log file, watched until healthy, stopped with everything that it started."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from classifiers.errors import ModelError

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_POLL_SECONDS = 0.25
# From SIGTERM to SIGKILL; and how much later the supervisor itself is given up.
_GRACE_SECONDS, _SUPERVISOR_SECONDS = 5.0, 15.0
_LOG_LINES, _LOG_BYTES = 15, 1 << 16
# A proxy for the outside world must not see requests to this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Causes that users meet most, by words that stand in the servers' own logs.
_ADVICE = (
    (
        ("out of memory", "outofmemory", "cannot allocate memory"),
        "memory ran out: lower max_context or concurrency, or take a smaller model",
    ),
    (
        ("kv cache", "num_blocks", "no available memory for the cache"),
        "the key-value cache does not fit: lower max_context",
    ),
    (("address already in use",), "the port was taken in between: run again"),
    (
        ("no module named", "missing dependencies", "importerror"),
        "a package is missing: pip install 'transformers[serving]' (or vllm, or sglang)",
    ),
    (
        ("trust_remote_code", "trust-remote-code"),
        "the model brings its own code: name it in allow_remote_code_of, at a commit",
    ),
    (
        ("offline", "couldn't connect", "not a valid model identifier"),
        "the model is neither on disk nor reachable: give a folder",
    ),
)


@dataclass(frozen=True)
class ServerCommand:
    """How a server is started: its command line, and what its environment has beyond ours."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """A started server under its supervisor (`supervisor.py`). Start it from a thread that lives as long as the server is
    needed: the kernel tells the supervisor of the end of the thread that started it, and it ends the server."""

    def __init__(self, name: str, command: ServerCommand, base_url: str, log_file: Path):
        self.name = name
        self.command = command
        self.base_url = base_url
        self.log_file = log_file
        self.came_up = False
        """True from its first answer until it is started again."""
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-S",
                    _SUPERVISOR,
                    str(os.getpid()),
                    str(_GRACE_SECONDS),
                    *self.command.arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.command.environment},
                # Ctrl-C at the terminal is ours to handle; and the group is what we stop.
                start_new_session=True,
            )

    def start_again(self) -> None:
        """Starts an ended server anew, with the same command and at the same address; what it left behind is ended."""
        self.stop()
        self.came_up = False
        self._process = self._start()

    @property
    def pid(self) -> int:
        """Process id of the supervisor, whose exit status is the server's."""
        return self._process.pid

    def exit_status(self) -> int | None:
        """The exit status (negative: the signal that ended it), or None while it runs."""
        return self._process.poll()

    def has_ended(self) -> bool:
        """True where the process has ended, by itself or not."""
        return self.exit_status() is not None

    def is_healthy(self) -> bool:
        """Whether GET /health answers 200 now."""
        return _is_healthy(self.base_url)

    def wait_until_healthy(self, timeout_seconds: float) -> None:
        """Returns when GET /health answers 200. Raises ModelError when the process ends first or time runs out."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self.exit_status() is not None:
                raise self.failure(f"ended with status {self.exit_status()} before it was ready")
            if self.is_healthy():
                return
            if time.monotonic() > deadline:
                raise self.failure(
                    f"was not ready after {timeout_seconds:.0f} s (start_timeout_seconds); larger models need longer"
                )
            time.sleep(_POLL_SECONDS)

    def failure(self, what: str) -> ModelError:
        """The error for a user: what happened, what to do, and the last lines of the server's log."""
        log = self._log_tail()
        advice = [text for words, text in _ADVICE if any(word in log.lower() for word in words)]
        if self.exit_status() == -signal.SIGKILL:
            advice.insert(0, "it was killed, most often for memory: lower max_context or concurrency")
        hint = "".join(f"\n  - {text}" for text in advice)
        return ModelError(
            f"the {self.name} server {what}.{hint}\nLast lines of {self.log_file}:\n{log or '(the log is empty)'}"
        )

    def stop(self) -> None:
        """Ends the server and everything that it started. Safe to call twice."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS + _SUPERVISOR_SECONDS)
        # Where the supervisor was killed or hangs, the group is ended without it; ProcessLookupError: nothing of it is left.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _log_tail(self) -> str:
        with self.log_file.open("rb") as log:
            log.seek(max(self._log_start, self.log_file.stat().st_size - _LOG_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(line[:300] for line in lines[-_LOG_LINES:])


def ask_directly(request: urllib.request.Request | str, timeout: float) -> tuple[int, bytes]:
    """(status, body) of a request to a server on this machine. Raises OSError (HTTPError among them) where it fails."""
    with _DIRECT.open(request, timeout=timeout) as response:
        return int(response.status), response.read()


def _is_healthy(base_url: str) -> bool:
    try:
        return ask_directly(f"{base_url}/health", 5)[0] == 200
    except (http.client.HTTPException, OSError):
        return False
