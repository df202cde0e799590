"""Builds the sample corpus from its page files: `python -m safetrove.sample.build`.

Writes `web/pages-0000{0..3}.warc.gz` and `labels.jsonl`. The same pages give the same bytes: dates and record ids
follow from the pages alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from classifiers.errors import DataError
from safetrove.sample import SAMPLE_FOLDER
from safetrove.sample.damage import DAMAGES
from safetrove.sample.layout import page_html
from safetrove.sample.pages import Page, read_pages

FILES = 4
FIRST_CAPTURE = datetime(2025, 3, 1, tzinfo=UTC)


def build(output: Path = SAMPLE_FOLDER) -> int:
    """Write the WARC files and the labels under `output`; return the number of pages. Raises DataError at a wrong page."""
    pages = read_pages()
    by_url = {page.url: page for page in pages}
    # The order of a hash mixes levels, languages and malformed records over the files.
    pages.sort(key=lambda page: hashlib.sha256(page.url.encode()).digest())
    (output / "web").mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        name = f"pages-{number:05d}.warc.gz"
        captures = [(page, index) for index, page in enumerate(pages) if index % FILES == number]
        _write_whole(output / "web" / name, _warc_bytes(name, captures, by_url))
    rows = [json.dumps(label(page), ensure_ascii=False) + "\n" for page in pages]
    _write_whole(output / "labels.jsonl", "".join(rows).encode())
    return len(pages)


def record_id(url: str) -> str:
    """The WARC-Record-ID of a page: a UUID (version 5) of its URL."""
    return f"<urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}>"


def label(page: Page) -> dict[str, str | int | None]:
    """The page's row of `labels.jsonl`."""
    return {
        "url": page.url,
        "record_id": record_id(page.url),
        "score": page.score,
        "category": page.category,
        "language": page.language,
        "genre": page.genre,
        "malformed": page.malformed,
    }


def payload(page: Page, by_url: dict[str, Page]) -> bytes:
    """The bytes that the page's server would send, damage included. Raises DataError if it copies an unknown page."""
    if page.copy_of is not None:
        if page.copy_of not in by_url:
            raise DataError(f"{page.url}: copy_of names {page.copy_of}, which is no page's URL; name an existing one")
        return payload(by_url[page.copy_of], by_url)
    if page.mime != "text/html":
        return page.body.encode(page.encoding)
    content = page_html(page).encode(page.encoding)
    if page.damage is None:
        return content
    if page.damage not in DAMAGES:
        raise DataError(f"{page.url}: unknown damage {page.damage!r}; known are {', '.join(DAMAGES)}")
    return DAMAGES[page.damage](content)


def _warc_bytes(name: str, captures: list[tuple[Page, int]], by_url: dict[str, Page]) -> bytes:
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    information = "software: safetrove.sample.build\r\nformat: WARC File Format 1.0\r\nlicense: Apache-2.0\r\n"
    warcinfo = writer.create_warc_record(
        "",
        "warcinfo",
        payload=io.BytesIO(information.encode()),
        warc_content_type="application/warc-fields",
        warc_headers_dict={
            "WARC-Record-ID": record_id(name),
            "WARC-Date": _warc_date(0),
            "WARC-Filename": name,
        },
    )
    writer.write_record(warcinfo)
    for page, index in captures:
        content = payload(page, by_url)
        http_headers = StatusAndHeaders(
            page.status,
            [
                ("Content-Type", f"{page.mime}; charset={page.declared_charset}"),
                ("Content-Length", str(len(content))),
                ("Content-Language", page.language),
                ("Server", "nginx"),
            ],
            protocol="HTTP/1.1",
        )
        record = writer.create_warc_record(
            page.url,
            "response",
            payload=io.BytesIO(content),
            http_headers=http_headers,
            warc_headers_dict={
                "WARC-Record-ID": record_id(page.url),
                "WARC-Date": _warc_date(index),
                "WARC-Identified-Payload-Type": page.mime,
            },
        )
        writer.write_record(record)
    return buffer.getvalue()


def _warc_date(index: int) -> str:
    return (FIRST_CAPTURE + timedelta(minutes=index)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(content)
    temporary.replace(path)


if __name__ == "__main__":
    print(f"{build()} pages in {SAMPLE_FOLDER}")
