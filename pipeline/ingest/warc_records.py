"""Records of a WARC file, one by one, so that a broken one costs itself and not the rest of the file."""

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

from warcio.archiveiterator import ArchiveIterator
from warcio.exceptions import ArchiveLoadFailed

_BLOCK = 1 << 16
_PART = 1 << 20
BOMB_RECORDS = 1000  # times the largest record that is kept; behind it the file is not read
_MAGIC = b"\x1f\x8b\x08"
_PROBE = 4096  # bytes of a member that show whether a WARC record begins in it


@dataclass(frozen=True)
class WarcRecord:
    """One record. `error` is set where it cannot be read: then only `locator` (the byte offset) is known besides."""

    locator: str
    kind: str = ""
    url: str = ""
    date: str = ""
    status: str = ""
    content_type: str = ""
    payload: bytes = b""
    error: str | None = None


class ByteReader(Protocol):
    """All that is asked of a stream here."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; b"" at the end."""


def read_warc(file: IO[bytes], maximum_bytes: int) -> Iterator[WarcRecord]:
    """All records of a gzip-per-record or plain WARC file, broken ones with their `error`.

    A corrupt gzip member is skipped up to the next member; a truncated end is one broken record; a record larger than
    `maximum_bytes` when unpacked is not kept in memory (decompression bombs end there).
    """
    start = file.read(3)
    stream = _Pushback(file, start)
    if start == _MAGIC:
        for offset, content, error in gzip_members(stream, maximum_bytes):
            if error:
                yield WarcRecord(locator=f"offset:{offset}", error=error)
            else:
                yield from _parse(io.BytesIO(content), offset, maximum_bytes)
    elif start in (b"WAR", b""):
        yield from _parse(stream, 0, maximum_bytes)
    else:
        yield WarcRecord(locator="offset:0", error="not_a_warc: the file begins with neither a WARC record nor gzip")


def gzip_members(stream: ByteReader, maximum_bytes: int) -> Iterator[tuple[int, bytes, str | None]]:
    """(offset, content, error) of each gzip member; after a corrupt one, reading goes on at the next WARC member.

    The bytes of the current member are held while it may still be kept: a corrupt one may have swallowed the start of the
    next. A member that unpacks to BOMB_RECORDS times `maximum_bytes` is the last thing that is read.
    """
    buffer, position = stream.read(_BLOCK), 0
    while buffer:
        engine, parts, size = zlib.decompressobj(31), [], 0
        held, before_held = bytearray(buffer), 0
        try:
            feed = buffer
            while not engine.eof:
                while feed and not engine.eof:
                    part = engine.decompress(feed, _PART)
                    feed = engine.unconsumed_tail
                    size += len(part)
                    parts.append(part)
                    if size > maximum_bytes:  # a page nobody wants: find its end, keep nothing
                        parts.clear()
                    if size > BOMB_RECORDS * maximum_bytes:
                        error = f"the gzip member at byte {position} unpacks to more than {size} bytes; the rest is not read"
                        yield position, b"", f"decompression_bomb: {error}"
                        return
                if not engine.eof:
                    feed = stream.read(_BLOCK)
                    if not feed:
                        yield position, b"", f"truncated: the file ends inside the gzip member at byte {position}"
                        return
                    if size > maximum_bytes:
                        before_held += len(held)
                        held.clear()
                    held += feed
        except zlib.error as broken:
            yield position, b"", f"corrupt gzip member at byte {position}: {broken}"
            buffer, skipped = _next_member(stream, bytes(held[1:]))
            position += before_held + 1 + skipped
            continue
        if size > maximum_bytes:
            yield (
                position,
                b"",
                f"too_large: the gzip member at byte {position} unpacks to more than {maximum_bytes} bytes",
            )
        else:
            yield position, b"".join(parts), None
        position += before_held + len(held) - len(engine.unused_data)
        buffer = engine.unused_data or stream.read(_BLOCK)


def _next_member(stream: ByteReader, buffer: bytes) -> tuple[bytes, int]:
    """(bytes from the next gzip member that unpacks to a WARC record, number of bytes skipped before it)."""
    skipped = start = 0
    while True:
        found = buffer.find(_MAGIC, start)
        if found < 0 or len(buffer) - found < _PROBE:  # more bytes behind what may be the beginning of one
            keep = found if found >= 0 else max(start, len(buffer) - 2)
            more = stream.read(_BLOCK)
            if found < 0 and not more:
                return b"", skipped + keep
            buffer, skipped, start = buffer[keep:] + more, skipped + keep, 0
            if found < 0:
                continue
            found = 0
        try:
            if zlib.decompressobj(31).decompress(buffer[found : found + _PROBE], 5) == b"WARC/":
                return buffer[found:], skipped + found
        except zlib.error:
            pass  # these three bytes stood inside compressed data: look further
        start = found + 1


def _parse(stream: ByteReader, offset: int, maximum_bytes: int) -> Iterator[WarcRecord]:
    iterator = iter(ArchiveIterator(stream))
    count = 0
    while True:
        where = f"offset:{offset}" + (f"+{count}" if count else "")
        try:
            record = next(iterator)
            headers = record.rec_headers
            payload = record.content_stream().read(maximum_bytes + 1)
        except StopIteration:
            return
        except (ArchiveLoadFailed, EOFError, ValueError, OverflowError, OSError, zlib.error, AttributeError) as error:
            yield WarcRecord(locator=where, error=f"unreadable: {type(error).__name__}: {str(error)[:200]}")
            return
        count += 1
        declared, http = _bytes_declared(headers.get_header("Content-Length")), record.http_headers
        locator = headers.get_header("WARC-Record-ID") or where
        if len(payload) > maximum_bytes:
            yield WarcRecord(locator=locator, error=f"too_large: more than {maximum_bytes} bytes")
            continue
        if declared is not None and http is None and len(payload) < declared:
            yield WarcRecord(locator=locator, error=f"truncated: {len(payload)} of {declared} bytes")
            continue
        length = _bytes_declared(http.get_header("Content-Length")) if http else None
        if length is not None and not http.get_header("Content-Encoding") and len(payload) < length:
            yield WarcRecord(locator=locator, error=f"truncated: {len(payload)} of {length} bytes")
            continue
        yield WarcRecord(
            locator=locator,
            kind=record.rec_type,
            url=headers.get_header("WARC-Target-URI") or "",
            date=headers.get_header("WARC-Date") or "",
            status=http.get_statuscode() if http else "",
            content_type=(
                headers.get_header("WARC-Identified-Payload-Type")
                or (http.get_header("Content-Type") if http else headers.get_header("Content-Type"))
                or ""
            ),
            payload=payload,
        )


def _bytes_declared(length: str | None) -> int | None:
    """The number in a Content-Length header; None where there is no header, or none that int() reads for sure.

    `isdigit` would take "²" as well, and int() refuses a number of thousands of digits.
    """
    return int(length) if length and re.fullmatch(r"[0-9]{1,640}", length) else None


class _Pushback(io.RawIOBase):
    """A stream with the bytes already read put back in front."""

    def __init__(self, stream: IO[bytes], first: bytes):
        self._stream, self._first = stream, first

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._first:
            return self._stream.read(size)
        if size < 0:
            data, self._first = self._first + self._stream.read(), b""
            return data
        data, self._first = self._first[:size], self._first[size:]
        return data + (self._stream.read(size - len(data)) if len(data) < size else b"")

    def readline(self, size: int | None = -1) -> bytes:
        if not self._first:
            return self._stream.readline(-1 if size is None else size)
        end = self._first.find(b"\n") + 1
        if end:
            data, self._first = self._first[:end], self._first[end:]
            return data
        data, self._first = self._first, b""
        return data + self._stream.readline()
