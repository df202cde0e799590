"""How long to wait before a request is sent again."""

import email.utils
from datetime import UTC, datetime

from rephrasers.keyed_draws import draw_key


def wait_seconds(attempt: int, request_key: str, first: float, longest: float) -> float:
    """Seconds after the try number `attempt` (0, 1, ...): min(first 2^attempt, longest), of that a keyed part in [1/2, 1).

    The part is drawn from the request and the attempt alone (stream "back_off"): requests that failed together do not
    come back together. The scheme is ours.
    """
    return min(first * 2.0**attempt, longest) * _part(attempt, request_key)


def asked_wait_seconds(header: str | None, now: datetime, longest: float) -> float | None:
    """Seconds that a Retry-After header (seconds or an HTTP date) asks for, in [0, longest]; None where it says nothing.

    now: with a time zone. Other values are taken as if the header were absent (RFC 9110, section 10.2.3).
    """
    header = (header or "").strip()
    if header.isdecimal():
        return min(float(header), longest)
    try:
        until = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return min(max((until - now).total_seconds(), 0.0), longest)


def spread_seconds(attempt: int, request_key: str, first: float) -> float:
    """What a request waits beyond a pause that holds for all of them, in [first / 2, first)."""
    return first * _part(attempt, request_key)


def _part(attempt: int, request_key: str) -> float:
    return 0.5 + draw_key(attempt, "back_off", request_key) / 2.0**65
