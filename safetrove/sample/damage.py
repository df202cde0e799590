"""The ways in which a malformed page of the sample corpus is broken: pure functions from the page's bytes to worse ones."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable


def empty(_: bytes) -> bytes:
    """A body of no bytes."""
    return b""


def binary(payload: bytes) -> bytes:
    """Four kilobytes without structure, served as if they were HTML."""
    return b"".join(hashlib.sha256(payload + number.to_bytes(2, "big")).digest() for number in range(128))


def invalid_utf8(payload: bytes) -> bytes:
    """Bytes that occur in no UTF-8 text, after the first paragraph."""
    return payload.replace(b"</p>", b" \xff\xfe\xc0\x80</p>", 1)


def truncated(payload: bytes) -> bytes:
    """The transfer broke off in the middle of the article, inside a tag."""
    return payload[: payload.rindex(b"</p>")] + b'<p class="le'


def deeply_nested(payload: bytes) -> bytes:
    """The article inside 600 div elements."""
    opened = payload.replace(b"<article", b"<div>" * 600 + b"<article")
    return opened.replace(b"</article>", b"</article>" + b"</div>" * 600)


def script_only(payload: bytes) -> bytes:
    """The text is only a string that a script would write."""
    text = re.sub(rb"\s+", b" ", payload[payload.index(b"<article") : payload.index(b"</article>")]).replace(b'"', b"'")
    return (
        b'<!DOCTYPE html>\n<html><head></head><body><div id="app"></div><script>render("'
        + text
        + b'");</script></body></html>'
    )


def navigation_only(payload: bytes) -> bytes:
    """Menu, sidebar and footer, and no article."""
    return payload[: payload.index(b"<main")] + payload[payload.index(b"</main>") + len(b"</main>") :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    function.__name__: function
    for function in (empty, binary, invalid_utf8, truncated, deeply_nested, script_only, navigation_only)
}
