"""HTML to text with trafilatura, in a process of its own that is stopped when a page takes too long."""

import re

from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.extractors.base import ExtractorSandbox

from pipeline.executors.die_with_parent import die_with_parent

_DECLARED_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_:-]{2,40})""", re.I)
_HEADER_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_:-]+)", re.I)
_GARBAGE_SHARE = 0.05


def is_html(content_type: str, payload: bytes) -> bool:
    """Whether a record is a web page: by its declared type, or by its first bytes where none is declared."""
    kind = content_type.split(";")[0].strip().lower()
    if kind:
        return kind in {"text/html", "application/xhtml+xml", "application/xhtml", "text/xhtml"}
    return b"<html" in payload[:2048].lower() or b"<!doctype html" in payload[:2048].lower()


def decode_html(payload: bytes, content_type: str) -> str | None:
    """Bytes to text: UTF-8 if they are, else the declared character set, else the detected one; None for binary data."""
    if b"\0" in payload[:4096] and not payload.startswith((b"\xff\xfe", b"\xfe\xff")):
        return None
    try:
        return payload.decode("utf-8")
    except UnicodeDecodeError:
        pass  # not UTF-8: go by what the page declares
    header, meta = _HEADER_CHARSET.search(content_type), _DECLARED_CHARSET.search(payload[:4096])
    declared = [header.group(1)] if header else []
    declared += [meta.group(1).decode("ascii")] if meta else []
    candidates = [name for name in declared if name.lower().replace("-", "") != "utf8"]
    best = _decode_as(payload, candidates)
    if best is None:
        import cchardet

        detected = cchardet.detect(payload[:200_000])["encoding"]
        best = _decode_as(payload, [detected] if detected else []) or payload.decode("utf-8", "replace")
    return None if best.count("�") > _GARBAGE_SHARE * len(best) else best


def _decode_as(payload: bytes, names: list[str]) -> str | None:
    for name in names:
        try:
            return payload.decode(name)
        except (LookupError, UnicodeDecodeError, ValueError):
            continue  # an unknown or wrong declaration: try the next
    return None


class PageExtractor:
    """Main text of HTML pages. A context manager: the process that extracts lives as long as it is open."""

    def __init__(self, seconds: float):
        self._sandbox = ExtractorSandbox(timeout=seconds, warmup_text="")
        self._trafilatura = Trafilatura(
            favour_precision=True,
            timeout=seconds,
            deduplicate=False,  # its memory would make a page depend on earlier ones
        )

    def __enter__(self) -> "PageExtractor":
        self._sandbox.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._sandbox.__exit__(*exception)

    def extract(self, html: str) -> str:
        """The main text, "" where there is none. Raises TimeoutError, EOFError (the process died) or what trafilatura raises."""
        result = self._sandbox.process_document(html, self._extract)
        if isinstance(result, _Failure):
            raise ValueError(result.message)
        return result or ""

    def _extract(self, html: str) -> "str | _Failure | None":
        """Runs in the sandbox. datatrove's worker dies with any exception: hand it over as a value instead."""
        if not html:  # the warm-up call: bind this process to its parent's life
            die_with_parent()
            return ""
        try:
            return self._trafilatura.extract(html)
        except Exception as error:
            return _Failure(f"{type(error).__name__}: {str(error)[:200]}")


class _Failure:
    """An error inside the sandbox, as a value that can be sent back."""

    def __init__(self, message: str):
        self.message = message
