"""Raw files as datatrove readers: WARC, JSON lines, Parquet. Every row is yielded, dropped or quarantined, none skipped."""

import json
from collections.abc import Iterator
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from classifiers.chunks import encodable
from classifiers.errors import DataError
from pipeline.ingest.compressed_files import DAMAGED, unpacked
from pipeline.ingest.documents import document_id
from pipeline.ingest.extraction import decode_html, is_html
from pipeline.ingest.input_files import InputFile
from pipeline.ingest.warc_records import WarcRecord, read_warc
from pipeline.recipe import Source
from pipeline.shard_task import ShardTask

BOMB_LINES = 1000  # times the longest line that is kept
# Of a batch. A dictionary, or an encoding of differences, can write one long text for all rows of a small file: few rows at a
# time bound the memory (8 microseconds a row more than batches of 256 take).
PARQUET_ROWS = 4
_DOCUMENT_RECORDS = {"response", "conversion", "resource"}


class ReadRecords(PipelineStep):
    """Yield the records of one raw file as documents; `metadata["html"]` says whether the text is still HTML."""

    type = "📖 - READER"

    def __init__(self, task: ShardTask, file: InputFile, source: Source, maximum_characters: int):
        super().__init__()
        self.task, self.file, self.source, self.maximum = task, file, source, maximum_characters

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        try:
            with fsspec.open(self.file.uri, "rb") as raw:
                file = unpacked(raw, self.file.uri) if self.file.format == "jsonl" else raw
                yield from {"warc": self._warc, "jsonl": self._jsonl, "parquet": self._parquet}[self.file.format](file)
        except FileNotFoundError as error:
            raise DataError(f"{self.file.uri}: the input file is gone; put it back and rerun the shard") from error

    def _document(self, locator: str, text: str, html: bool, url: str) -> Document:
        # JSON may hold half of a surrogate pair, which no file takes; the id is a hash of what was given
        metadata = {"html": html, "url": encodable(url), "record": encodable(locator)}
        return Document(text=text, id=document_id(self.source.name, locator), metadata=metadata)

    def _refuse(self, locator: str, reason: str, detail: str) -> None:
        identifier = document_id(self.source.name, locator)
        self.task.quarantine(identifier, reason, file=self.file.name, record=locator, detail=detail)

    # ---- WARC

    def _warc(self, file: IO[bytes]) -> Iterator[Document]:
        other = 0
        for record in read_warc(file, 4 * self.maximum):
            if record.error is None and record.kind not in _DOCUMENT_RECORDS:
                other += 1  # warcinfo, request, metadata: not documents, not rows
                continue
            self.task.read()
            document = self._page(record)
            if document is not None:
                yield document
        if other:
            self.task.metrics["warc_records_that_are_no_documents"] = other

    def _page(self, record: WarcRecord) -> Document | None:
        # without a WARC-Record-ID only the place in this file is known, and another file has the same one
        locator = f"{self.file.name}:{record.locator}" if record.locator.startswith("offset:") else record.locator
        if record.error is not None:
            self._refuse(locator, record.error.split(":")[0].split(" at ")[0].replace(" ", "_"), record.error)
            return None
        if record.status and not record.status.startswith("2"):
            self.task.drop("http_status")
            return None
        plain = record.kind == "conversion" or record.content_type.split(";")[0].strip() == "text/plain"
        if not plain and not is_html(record.content_type, record.payload):
            self.task.drop("not_html")
            return None
        text = decode_html(record.payload, record.content_type)
        if text is None:
            self._refuse(locator, "undecodable", "the bytes are no text in any character set that was tried")
            return None
        if len(text) > self.maximum:
            self._refuse(locator, "too_long", f"{len(text)} characters, more than ingest.maximum_characters")
            return None
        return self._document(locator, text, not plain, record.url)

    # ---- JSON lines

    def _jsonl(self, file: IO[bytes]) -> Iterator[Document]:
        lines = _bounded_lines(file, 6 * self.maximum)
        number = 0
        while True:
            number += 1
            locator = f"{self.file.name}:{number}"
            try:
                line = next(lines)
            except StopIteration:
                return
            except EndlessLineError as error:
                self.task.read()
                self._refuse(locator, "decompression_bomb", f"the file is not read beyond line {number}: {error}")
                return
            except DAMAGED as error:  # the compressed stream breaks off here
                self.task.read()
                self._refuse(locator, "truncated", f"the file cannot be read beyond line {number - 1}: {error}")
                return
            if line is not None and not line.strip():
                continue
            self.task.read()
            if line is None:
                self._refuse(locator, "too_long", "the line is longer than ingest.maximum_characters allows")
                continue
            try:
                row = json.loads(line)
            except (UnicodeDecodeError, ValueError, RecursionError) as error:  # the last: thousands of brackets
                reason = "invalid_utf8" if isinstance(error, UnicodeDecodeError) else "invalid_json"
                self._refuse(locator, reason, f"line {number}: {error}")
                continue
            document = self._row(row, locator)
            if document is not None:
                yield document

    # ---- Parquet

    def _parquet(self, file: IO[bytes]) -> Iterator[Document]:
        wanted = [self.source.text_column, self.source.id_column, self.source.url_column]
        try:
            table = pq.ParquetFile(file)
            columns = [c for c in dict.fromkeys(wanted) if c and c in table.schema_arrow.names]
            if self.source.text_column not in columns:
                raise DataError(
                    f"{self.file.uri}: no column {self.source.text_column!r} (it has {table.schema_arrow.names}); "
                    f"set text_column of source {self.source.name}"
                )
            number = 0
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                for row in _rows(batch):
                    number += 1
                    locator = f"{self.file.name}:{number}"
                    self.task.read()
                    if isinstance(row, UnicodeDecodeError):
                        self._refuse(locator, "invalid_utf8", f"row {number}: {row}")
                        continue
                    document = self._row(row, locator)
                    if document is not None:
                        yield document
        except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:  # the last: a column's name
            raise DataError(
                f"{self.file.uri}: cannot be read as Parquet: {error}; replace the file, then: safetrove rerun "
                f"{self.task.run.root} --stage {self.task.stage} --failed"
            ) from error

    def _row(self, row: Any, locator: str) -> Document | None:
        if not isinstance(row, dict):
            self._refuse(locator, "not_an_object", "the row is no JSON object")
            return None
        text = row.get(self.source.text_column)
        given = row.get(self.source.id_column) if self.source.id_column else None
        if given not in (None, ""):
            locator = str(given)
        if not isinstance(text, str):
            found = "nothing" if text is None else type(text).__name__
            self._refuse(locator, "no_text", f"expected a string in {self.source.text_column!r}, found {found}")
            return None
        if len(text) > self.maximum:
            self._refuse(locator, "too_long", f"{len(text)} characters, more than ingest.maximum_characters")
            return None
        url = row.get(self.source.url_column) if self.source.url_column else None
        return self._document(locator, text, False, str(url or ""))


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any] | UnicodeDecodeError]:
    """The rows of a batch; in the place of one with a string that is no UTF-8, which Parquet does not check, the error."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError as error:
        if batch.num_rows == 1:
            return [error]
        return [row for number in range(batch.num_rows) for row in _rows(batch.slice(number, 1))]


class EndlessLineError(Exception):
    """A line that is longer than anybody's data: a small file that unpacks to terabytes would be read for days."""


def _bounded_lines(file: IO[bytes], maximum: int) -> Iterator[bytes | None]:
    """Lines of a binary stream; None for each line longer than `maximum` bytes, which is skipped, not kept.

    Raises EndlessLineError for a line of BOMB_LINES times as many.
    """
    while line := file.readline(maximum):
        if len(line) < maximum or line.endswith(b"\n"):
            yield line
            continue
        skipped = 1
        while (rest := file.readline(maximum)) and not rest.endswith(b"\n"):
            skipped += 1
            if skipped >= BOMB_LINES:
                raise EndlessLineError(f"it is longer than {skipped * maximum} bytes, unpacked")
        yield None
