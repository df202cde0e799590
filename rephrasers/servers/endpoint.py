"""The client: datatrove's server interface over any OpenAI-compatible address, with time-outs and bounded back-off.

Its own starting, probing and retrying are left out: `serving` owns the process, the stock probe asks an address that
answers 500 without a hub cache, and the stock retry waits for minutes and puts the whole prompt into its error.
"""

import asyncio
import os
from typing import Any

import httpx
from datatrove.pipeline.inference.servers import InferenceServer
from datatrove.pipeline.inference.types import InferenceError, ServerError
from loguru import logger

from classifiers.errors import ModelError, RecipeError
from rephrasers.servers.answers import chat_completion, decision_completion
from rephrasers.servers.open_servers import Serving
from rephrasers.servers.settings import ServerSettings

BACK_OFF_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
# This many requests in a row given up for the server's sake mean a dead server, not difficult documents.
FAILURES_IN_A_ROW = 16
CHAT_PATH, DECISION_PATH = "/v1/chat/completions", "/v1/systemone"
_WATCH_SECONDS = 0.5
_BUSY = (429, 503)
_ACCESS = {
    401: "the key is missing or wrong: set the variable named in api_key_variable",
    403: "the key may not use this model",
    404: "the model or the address is unknown to the server: check `model` and `url` (base address, without /v1)",
}


class RequestFailedError(InferenceError):
    """One request got no answer. `retries`: how often it was sent again."""

    def __init__(self, reason: str, retries: int):
        super().__init__(None, reason)
        self.retries = retries


class GuardedClient(InferenceServer):
    """Sends datatrove's requests to a server that already answers: chats, and decisions where `questions` are asked.

    A request that the server refuses raises RequestFailedError with a short reason and no payload (payloads are document
    text). A server that is gone, or whose key, model or address is wrong, raises ServerError around a ModelError.
    """

    def __init__(self, config: Any, rank: int, settings: ServerSettings, server: Serving):
        super().__init__(config, rank)
        self.settings = settings
        self.server = server
        self._client: httpx.AsyncClient | None = None
        self._given_up_in_a_row = 0

    async def start_server(self) -> None:
        """Nothing to start."""

    async def _wait_until_ready(self, max_attempts: int = 1, delay_sec: float = 0.0) -> None:
        """Nothing to wait for: `serving` has seen it healthy; an endpoint shows its state at the first request."""

    async def monitor_health(self) -> None:
        """Returns never while the server lives; raises ModelError when its process has ended."""
        process = self.server.process
        while process is None or process.exit_status() is None:
            await asyncio.sleep(_WATCH_SECONDS)
        raise process.failure(f"ended with status {process.exit_status()} while it was in use")

    def get_base_url(self) -> str:
        """Base URL, without /v1."""
        return self.server.base_url

    async def server_cleanup(self) -> None:
        """Closes the connections; the server itself is not ours."""
        await super().server_cleanup()
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _make_request(self, payload: dict[str, Any]) -> dict[str, Any]:
        path = DECISION_PATH if "questions" in payload else CHAT_PATH
        reason, wait = "unreachable", 0.0
        for attempt in range(self.settings.max_attempts):
            if attempt:
                await asyncio.sleep(wait)
            wait = min(BACK_OFF_SECONDS * 2**attempt, LONGEST_WAIT_SECONDS)
            try:
                response = await self._connection().post(path, json=payload)
            except httpx.TimeoutException:
                reason = f"timeout: no answer within {self.settings.request_timeout_seconds:g} s"
            except httpx.TransportError as error:
                self._raise_if_process_ended()
                reason = f"unreachable: {type(error).__name__}"
            else:
                if response.status_code == 200:
                    self._given_up_in_a_row = 0
                    return _answer_of(response, path, attempt)
                reason = self._judge_status(response, attempt)
                wait = _retry_after(response, wait)
            logger.debug(f"attempt {attempt + 1} of {self.settings.max_attempts}: {reason}")
        self._give_up(reason)
        raise RequestFailedError(reason, self.settings.max_attempts - 1)

    def _judge_status(self, response: httpx.Response, attempt: int) -> str:
        """The reason to try again; raises where trying again cannot help."""
        status = response.status_code
        if status in _ACCESS:
            raise _server_error(f"{self.get_base_url()} answered HTTP {status}: {_ACCESS[status]}")
        if status in _BUSY or status >= 500:
            self._raise_if_process_ended()
            return f"busy: HTTP {status}" if status in _BUSY else f"server_error: HTTP {status}"
        # "BadRequestError" is the word by which datatrove stores an error as final in its request cache.
        raise RequestFailedError(f"rejected: HTTP {status} (BadRequestError)", attempt)

    def _give_up(self, reason: str) -> None:
        self._given_up_in_a_row += 1
        if self._given_up_in_a_row >= FAILURES_IN_A_ROW or reason.startswith(("unreachable", "busy")):
            raise _server_error(
                f"{self.get_base_url()} fails since {self.settings.max_attempts} attempts ({reason}). Answers so far "
                "are kept: run the shard again when the server is well, or lower concurrency"
            )

    def _raise_if_process_ended(self) -> None:
        process = self.server.process
        if process is not None and process.exit_status() is not None:
            raise ServerError(process.failure(f"ended with status {process.exit_status()} while it was in use"))

    def _connection(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                base_url=self.get_base_url(),
                headers=_authorisation(self.settings.api_key_variable),
                timeout=httpx.Timeout(self.settings.request_timeout_seconds, connect=10.0),
                limits=httpx.Limits(max_connections=self.settings.concurrency),
                # A proxy for the outside world must not see requests to this machine.
                trust_env=self.server.process is None,
            )
        return self._client


def _authorisation(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise ServerError(RecipeError(f"api_key_variable names {variable}, which is not set: export {variable}=..."))
    return {"Authorization": f"Bearer {key}"}


def _answer_of(response: httpx.Response, path: str, retries: int) -> dict[str, Any]:
    """The parsed body, checked for what is read from it."""
    try:
        if path == DECISION_PATH:
            return decision_completion(response.json(), retries)
        return chat_completion(response.json(), retries)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        what = "decision" if path == DECISION_PATH else "chat completion"
        raise RequestFailedError(f"unreadable: the answer is not a {what} ({type(error).__name__})", retries) from None


def _retry_after(response: httpx.Response, wait: float) -> float:
    """Seconds to wait: what the server asks for, bounded."""
    asked = response.headers.get("retry-after", "")
    return min(float(asked), LONGEST_WAIT_SECONDS) if asked.isdigit() else wait


def _server_error(text: str) -> ServerError:
    return ServerError(ModelError(text))
