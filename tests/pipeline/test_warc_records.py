"""Broken WARC files: each record that can be read is read, each that cannot is named, none vanishes."""

import gzip
import io
import re

import pytest
from warcio.warcwriter import WARCWriter

from pipeline.ingest.warc_records import read_warc


def warc_bytes(pages: list[bytes], compressed: bool = True, header: bytes = b"") -> tuple[bytes, list[int]]:
    """(a WARC file with one response a page, offsets of its records); the first one has the HTTP `header` besides."""
    buffer, offsets = io.BytesIO(), []
    writer = WARCWriter(buffer, gzip=compressed)
    for number, page in enumerate(pages):
        offsets.append(buffer.tell())
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n" + (b"" if number else header) + b"\r\n"
        record = writer.create_warc_record(
            f"http://example.org/{number}", "response", payload=io.BytesIO(http + page), http_headers=None
        )
        writer.write_record(record)
    return buffer.getvalue(), offsets


PAGES = [f"<html><p>page {n} {'x' * 200 * n}</p></html>".encode() for n in range(6)]


@pytest.mark.parametrize("compressed", [True, False])
def test_whole_file(compressed):
    content, _ = warc_bytes(PAGES, compressed)
    records = list(read_warc(io.BytesIO(content), 1 << 20))
    assert [r.payload for r in records] == PAGES
    assert all(r.status == "200" and r.content_type == "text/html" and r.error is None for r in records)


@pytest.mark.parametrize("broken", range(6))
def test_a_corrupt_member_costs_itself_alone(broken):
    content, offsets = warc_bytes(PAGES)
    damaged = bytearray(content)
    for i in range(offsets[broken] + 60, offsets[broken] + 90):
        damaged[i] ^= 0xFF
    records = list(read_warc(io.BytesIO(bytes(damaged)), 1 << 20))
    assert [r.payload for r in records if r.error is None] == [p for n, p in enumerate(PAGES) if n != broken]
    (bad,) = [r for r in records if r.error]
    assert bad.locator == f"offset:{offsets[broken]}" and "corrupt gzip member" in bad.error


@pytest.mark.parametrize("cut", [1, 50, 120])
def test_a_truncated_end_is_one_broken_record(cut):
    content, offsets = warc_bytes(PAGES)
    records = list(read_warc(io.BytesIO(content[:-cut]), 1 << 20))
    assert [r.payload for r in records[:-1]] == PAGES[:-1]
    assert records[-1].error.startswith("truncated") and records[-1].locator == f"offset:{offsets[-1]}"


def test_a_header_without_its_member_is_named():
    content, offsets = warc_bytes(PAGES)
    records = list(read_warc(io.BytesIO(content[: offsets[3] + 15]), 1 << 20))
    assert len(records) == 4 and records[3].error


def test_a_bomb_is_not_kept_in_memory():
    content, _ = warc_bytes([PAGES[1], b"<html>" + b"0" * 30_000_000, PAGES[2]])
    records = list(read_warc(io.BytesIO(content), 1 << 20))
    assert [r.payload for r in records if r.error is None] == [PAGES[1], PAGES[2]]
    assert "too_large" in records[1].error


def test_what_is_no_warc_is_one_broken_record():
    (record,) = read_warc(io.BytesIO(b"this is no archive at all\n" * 100), 1 << 20)
    assert record.error
    (record,) = read_warc(io.BytesIO(gzip.compress(b"nor is this")), 1 << 20)
    assert record.error
    assert list(read_warc(io.BytesIO(b""), 1 << 20)) == []


LENGTHS = {
    "UTF-8 ²": "²".encode(),
    "Latin-1 ²": "²".encode("latin-1"),
    "5,000 digits": b"9" * 5000,
    "more than a file has": b"9" * 30,
}


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
def test_a_hostile_length_in_a_servers_answer_costs_at_most_its_record(length, compressed):
    content, _ = warc_bytes(PAGES, compressed, b"Content-Length: " + length + b"\r\n")
    hostile, *others = read_warc(io.BytesIO(content), 1 << 20)
    assert [r.payload for r in others] == PAGES[1:]
    assert hostile.payload == PAGES[0] or "truncated" in hostile.error


@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
def test_a_hostile_length_of_a_record_costs_its_gzip_member_alone(length):
    content, offsets = warc_bytes(PAGES)
    member = gzip.decompress(content[: offsets[1]])
    broken = re.sub(rb"(\r\nContent-Length: )[0-9]+", lambda found: found[1] + length, member, count=1)
    records = list(read_warc(io.BytesIO(gzip.compress(broken) + content[offsets[1] :]), 1 << 20))
    assert [r.payload for r in records][-5:] == PAGES[1:]
