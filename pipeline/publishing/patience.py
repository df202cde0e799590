"""Requests to the Hub that may be asked again: which failures pass, how long to wait, and what to say without secrets."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.publishing.errors import PublishError

MOST_TRIES = 10
LONGEST_WAIT = 300.0  # seconds
LONGEST_ASKED_WAIT = 3600.0  # the Hub counts commits by the hour
# 409: another operation on the repository; 412: somebody else committed in between
_PASSING = frozenset({408, 409, 412, 425, 429, 500, 502, 503, 504})
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\")]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9_]{4,}")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Failure:
    """A failed request: whether asking again may help, how long the Hub wants us to wait, and what it said."""

    passes: bool
    seconds: float | None
    text: str


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises: HTTP errors and lost connections, bad answers, failures inside upload threads."""
    from huggingface_hub.errors import HTTPError

    return HTTPError, OSError, RuntimeError, ValueError


def understand(error: BaseException) -> Failure:
    """What a failure of a request means. Upload threads wrap the cause in a RuntimeError."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    inner = error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error
    if isinstance(inner, HfHubHTTPError):
        status = inner.response.status_code
        return Failure(status in _PASSING, _asked_wait(inner.response.headers), without_secrets(str(inner)))
    if isinstance(inner, OfflineModeIsEnabled):
        return Failure(False, None, "HF_HUB_OFFLINE is set: nothing can be sent")
    lost = isinstance(inner, (HTTPError, ConnectionError, TimeoutError))
    return Failure(lost, None, without_secrets(f"{type(inner).__name__}: {inner}"))


def without_secrets(text: str) -> str:
    """A message without tokens, and without the query of any address: presigned addresses are keys for as long as they live."""
    from huggingface_hub import get_token

    token = get_token()
    text = text.replace(token, "[token]") if token else text
    return _TOKEN.sub("[token]", _QUERY.sub(r"\1", text))


def wait_before(failure: Failure, tries: int) -> float:
    """Seconds to wait after the `tries`-th failure: what the Hub asked for (an hour at most), else 1, 2, 4, ... up to LONGEST_WAIT."""
    return failure.seconds if failure.seconds is not None else min(LONGEST_WAIT, 2.0 ** (tries - 1))


def patiently(ask: Callable[[], _Result], what: str, wait: Callable[[float], None]) -> _Result:
    """The answer of `ask`, asked again while its failures may pass. Raises PublishError with what the Hub said."""
    tries = 0
    while True:
        try:
            return ask()
        except hub_errors() as error:
            failure = understand(error)
            tries += 1
            if not failure.passes or tries == MOST_TRIES:
                # not chained: the cause may hold presigned addresses
                raise PublishError(f"{what}: {failure.text}") from None
        wait(wait_before(failure, tries))


def _asked_wait(headers: object) -> float | None:
    """Retry-After, or the reset of a spent rate limit (`RateLimit: "api";r=0;t=55`), in seconds."""
    get = headers.get  # type: ignore[attr-defined]
    after = re.fullmatch(r"\s*(\d+)\s*", get("Retry-After") or "")
    spent = re.search(r";\s*r=0\s*;\s*t=(\d+)", get("RateLimit") or "")
    found = after or spent
    return min(float(found[1]), LONGEST_ASKED_WAIT) if found else None
