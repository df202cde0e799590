"""The client: datatrove's server interface over any OpenAI-compatible address, with time-outs and bounded back-off.

Its own starting, probing and retrying are left out: `serving` owns the process, the stock probe asks an address that
answers 500 without a hub cache, and the stock retry waits for minutes and puts the whole prompt into its error.
"""

import asyncio
import hashlib
import os
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
from datatrove.pipeline.inference.servers import InferenceServer
from datatrove.pipeline.inference.types import InferenceError, ServerError
from loguru import logger

from classifiers.errors import ModelError, RecipeError
from rephrasers.servers.answers import MalformedAnswerError, most_bytes, read_completion, with_faults
from rephrasers.servers.back_off import asked_wait_seconds, spread_seconds, wait_seconds
from rephrasers.servers.open_servers import Serving
from rephrasers.servers.restart import Restarts
from rephrasers.servers.settings import ServerSettings

BACK_OFF_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
# This many requests in a row given up for the server's sake mean a dead server, not difficult documents.
FAILURES_IN_A_ROW = 16
# A malformed answer is asked for again only so often: the seed is the same, and so will most answers be.
MALFORMED_ATTEMPTS = 3
CHAT_PATH, DECISION_PATH = "/v1/chat/completions", "/v1/systemone"
_WATCH_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
_STATUS_FAULTS = {
    408: "timeout",  # a gateway's
    409: "unavailable",
    425: "unavailable",
    429: "too_many_requests",
    503: "unavailable",
}
# With these the whole server is at fault, never one document.
_SERVER_FAULTS = ("too_many_requests", "unavailable", "unreachable")
_ACCESS = {
    402: "the account has no credit left",
    401: "the key is missing or wrong: set the variable named in api_key_variable",
    403: "the key may not use this model",
    404: "the model or the address is unknown to the server: check `model` and `url` (base address, without /v1)",
}


class RequestFailedError(InferenceError):
    """One request got no answer. faults: the tries that went wrong before the last one, by kind."""

    def __init__(self, reason: str, faults: Counter[str]):
        super().__init__(None, reason)
        self.faults = dict(faults)


class _FaultError(Exception):
    """One try went wrong. kind: its counter; wait: seconds that the server asks for; malformed: an answer came."""

    def __init__(self, kind: str, what: str, wait: float | None = None, malformed: bool = False):
        super().__init__(what)
        self.kind, self.what, self.wait, self.malformed = kind, what, wait, malformed


class GuardedClient(InferenceServer):
    """Sends datatrove's requests to a server that already answers: chats, and decisions where `questions` are asked.

    A request that the server refuses raises RequestFailedError with a short reason and no payload (payloads are document
    text). A server that is gone for good, or whose key, model or address is wrong, raises ServerError around a ModelError;
    a server of ours that ends is started again, `max_restarts` times.
    """

    def __init__(self, config: Any, rank: int, settings: ServerSettings, server: Serving):
        super().__init__(config, rank)
        self.settings = settings
        self.server = server
        self.restarts = Restarts(settings, server)
        self._client: httpx.AsyncClient | None = None
        self._given_up_in_a_row = 0
        self._paused_until = 0.0

    async def start_server(self) -> None:
        """Nothing to start."""

    async def _wait_until_ready(self, max_attempts: int = 1, delay_sec: float = 0.0) -> None:
        """Nothing to wait for: `serving` has seen it healthy; an endpoint shows its state at the first request."""

    async def monitor_health(self) -> None:
        """Returns never; restarts a server whose process has ended, also where no request notices, and raises what
        `Restarts.revive` raises."""
        while True:
            await self.restarts.revive()
            await asyncio.sleep(_WATCH_SECONDS)

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
        body, most = orjson.dumps(payload), most_bytes(payload)
        decision, key = "questions" in payload, hashlib.blake2b(body, digest_size=16).hexdigest()
        faults: Counter[str] = Counter()
        attempt = 0
        while True:
            if (pause := self._paused_until - time.monotonic()) > 0:
                await asyncio.sleep(pause + spread_seconds(attempt, key, BACK_OFF_SECONDS))
            try:
                completion = await self._try(body, most, decision, faults)
            except _FaultError as fault:
                faults[fault.kind] += 1
                attempt += 1
                logger.debug(f"attempt {attempt} of {self.settings.max_attempts}: {fault.kind}: {fault.what}")
                allowed = self.settings.max_attempts
                if attempt >= (min(MALFORMED_ATTEMPTS, allowed) if fault.malformed else allowed):
                    raise self._given_up(fault, faults) from None
                await self._wait(fault, attempt - 1, key)
            else:
                self._given_up_in_a_row = 0
                return with_faults(completion, faults)

    async def _try(self, body: bytes, most: int, decision: bool, faults: Counter[str]) -> dict[str, Any]:
        """One answer, or _FaultError; raises what trying again cannot help."""
        try:
            await self.restarts.revive()
        except ModelError as error:
            raise ServerError(error) from None
        limit = self.settings.request_timeout_seconds
        try:
            async with asyncio.timeout(limit):
                return read_completion(await self._post(body, most, decision, faults), decision)
        except MalformedAnswerError as error:
            raise _FaultError(error.kind, str(error), malformed=True) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _FaultError("unreachable", type(error).__name__) from None
        except TimeoutError:
            raise _FaultError("timeout", f"no answer within {limit:g} s") from None
        except httpx.TransportError as error:
            raise _FaultError("connection_lost", type(error).__name__) from None

    async def _post(self, body: bytes, most: int, decision: bool, faults: Counter[str]) -> bytes:
        """The body of an answer with status 200, never more than `most` bytes of it."""
        path = DECISION_PATH if decision else CHAT_PATH
        async with self._connection().stream("POST", path, content=body) as response:
            if response.status_code != 200:
                raise self._fault_of_status(response, faults)
            content = bytearray()
            async for part in response.aiter_raw():
                content += part
                if len(content) > most:
                    raise MalformedAnswerError("oversized", f"more than {most} bytes")
        return bytes(content)

    def _fault_of_status(self, response: httpx.Response, faults: Counter[str]) -> Exception:
        status = response.status_code
        if 300 <= status < 400:
            return _server_error(
                f"{self.get_base_url()} answered HTTP {status}: it sends requests elsewhere; give the final address as `url`"
            )
        if status in _ACCESS:
            return _server_error(f"{self.get_base_url()} answered HTTP {status}: {_ACCESS[status]}")
        wait = asked_wait_seconds(response.headers.get("retry-after"), datetime.now(UTC), LONGEST_WAIT_SECONDS)
        if status in _STATUS_FAULTS:
            return _FaultError(_STATUS_FAULTS[status], f"HTTP {status}", wait)
        if status >= 500:
            return _FaultError("server_error", f"HTTP {status}", wait)
        # "BadRequestError" is the word by which datatrove stores an error as final in its request cache.
        return RequestFailedError(f"rejected: HTTP {status} (BadRequestError)", faults)

    async def _wait(self, fault: _FaultError, attempt: int, key: str) -> None:
        """Back-off of this request. A pause that the server asks for holds for all: each would only be sent away again.

        No pause at all (Retry-After 0, or a date of a clock that is behind ours) would use up all tries at once.
        """
        if fault.wait:
            self._paused_until = max(self._paused_until, time.monotonic() + fault.wait)
        elif not fault.malformed:
            await asyncio.sleep(wait_seconds(attempt, key, BACK_OFF_SECONDS, LONGEST_WAIT_SECONDS))

    def _given_up(self, fault: _FaultError, faults: Counter[str]) -> Exception:
        self._given_up_in_a_row += 1
        if fault.kind in _SERVER_FAULTS or self._given_up_in_a_row >= FAILURES_IN_A_ROW:
            return _server_error(
                f"{self.get_base_url()} fails since {faults.total()} attempts at one request ({fault.kind}: {fault.what}). Answers so far "
                "are kept: run the shard again when the server is well, or lower concurrency"
            )
        faults[fault.kind] -= 1  # the last one is the reason
        return RequestFailedError(f"{fault.kind}: {fault.what}", +faults)

    def _connection(self) -> httpx.AsyncClient:
        if self._client is None:
            headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
            self._client = httpx.AsyncClient(
                base_url=self.get_base_url(),
                headers=headers | _authorisation(self.settings.api_key_variable),
                timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),  # `_try` bounds the whole
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


def _server_error(text: str) -> ServerError:
    return ServerError(ModelError(text))
