"""Reads the page files of the sample corpus (`pages/*.yaml`), the only source that the WARC files are built from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from classifiers.errors import DataError

PAGES_FOLDER = Path(__file__).resolve().parent / "pages"


@dataclass(frozen=True)
class Page:
    """One page: what it says (`title`, `body`), its label, and for a malformed page what is wrong with its record.

    `body` is a small Markdown: blocks between blank lines, `## heading`, `- item`, `1. item`, `> quote`, and
    `@name: text` for a post in a thread; a page of genre "poem" keeps its line ends.
    """

    url: str
    title: str
    genre: str
    language: str
    score: int
    category: str
    body: str = ""
    malformed: str | None = None  # the reason, as it stands in labels.jsonl
    damage: str | None = None  # a key of damage.DAMAGES
    status: str = "200 OK"
    mime: str = "text/html"
    encoding: str = "utf-8"  # what the bytes are
    declared_charset: str = "utf-8"  # what header and page claim
    copy_of: str | None = None  # URL of the page whose payload is repeated byte for byte


def read_pages(folder: Path = PAGES_FOLDER) -> list[Page]:
    """All pages of `folder`, files in the order of their names. Raises DataError at a wrong key, value or a URL met twice."""
    pages: list[Page] = []
    for path in sorted(folder.glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for row, entry in enumerate(content["pages"]):
            pages.append(_page({**content.get("defaults", {}), **entry}, f"{path.name}, page {row}"))
    if not pages:
        raise DataError(f"{folder}: no page files (*.yaml) here; restore them from version control")
    by_url = {page.url: page for page in pages}
    if len(by_url) < len(pages):
        twice = sorted({page.url for page in pages if by_url[page.url] is not page})
        raise DataError(f"{folder}: URLs that stand on more than one page: {', '.join(twice)}; give each page its own")
    return pages


def _page(values: dict[str, Any], where: str) -> Page:
    unknown = sorted(set(values) - {field.name for field in fields(Page)})
    if unknown:
        raise DataError(
            f"{where}: unknown keys {', '.join(unknown)}; the keys are the fields of safetrove.sample.pages.Page"
        )
    try:
        page = Page(**values)
    except TypeError as error:
        raise DataError(f"{where}: {error}; add the key, or a default at the head of the file") from error
    if page.score not in range(6):
        raise DataError(f"{where}: score {page.score!r} is not one of 0-5")
    if (page.category == "none") != (page.score == 0):
        raise DataError(
            f"{where}: category {page.category!r} at score {page.score}; it is 'none' at score 0 and only there"
        )
    return page


def blocks(body: str) -> list[str]:
    """The blocks of a page body, in order, without the blank lines between them."""
    return [block.strip() for block in body.strip().split("\n\n") if block.strip()]
