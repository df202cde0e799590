"""The sample that `safetrove plan` measures: parts of a few input files, and documents spread over them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow.parquet as pq
from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from pipeline.ingest.compressed_files import unpacked
from pipeline.ingest.input_files import InputFile
from pipeline.ingest.read_records import ReadRecords
from pipeline.recipe import Recipe, Source
from pipeline.run_folder import RunFolder
from pipeline.shard_task import ShardTask

FILES_OF_A_SOURCE = 3
PART_BYTES = 4 << 20  # of one file, as stored; far above the read-ahead of decompressors, which is counted as read
PART_SECONDS = 3.0
# Documents, characters of text.
ENCODER_SAMPLE = (60, 200_000)  # about 15 seconds of the embedding classifier on one core
SAMPLE = (2_000, 1_000_000)  # for all other stages: what is fixed in a table of few rows would be taken for the rows'
HTML_TEXT_SHARE = 0.1  # of an HTML page's characters that are its main text; bounds the sample, enters no number


@dataclass(frozen=True)
class SourceSample:
    """What was read of one source. `bytes` is the size of all its files; None where a store does not say."""

    source: str
    files: int
    bytes: int | None
    files_read: int
    bytes_read: float
    rows_read: int
    documents: list[Document]

    @property
    def factor(self) -> float:
        """Whole source over the part that was read, by bytes; by number of files where sizes are not known."""
        if self.bytes is None:
            return self.files / self.files_read
        return self.bytes / self.bytes_read if self.bytes_read else 0.0

    @property
    def characters(self) -> int:
        """Raw characters (HTML included) of the documents that were read."""
        return sum(len(document.text) for document in self.documents)


class ReadPart(ReadRecords):
    """ReadRecords that knows how much of its file it has consumed."""

    _raw: IO[bytes]
    _parquet_rows: int | None = None

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        with fsspec.open(self.file.uri, "rb") as raw:
            self._raw = raw
            if self.file.format == "parquet":
                yield from self._parquet(raw)
                return
            file = unpacked(raw, self.file.uri) if self.file.format == "jsonl" else raw
            yield from {"warc": self._warc, "jsonl": self._jsonl}[self.file.format](file)

    def bytes_read(self, size: int) -> float:
        """Bytes of the file, as stored, behind the rows so far; Parquet is read by columns: there, the share of its rows."""
        if self.file.format != "parquet":
            return self._raw.tell()
        if self._parquet_rows is None:
            self._parquet_rows = pq.ParquetFile(self.file.uri).metadata.num_rows if "://" not in self.file.uri else 0
        return size * self.task.rows_in / self._parquet_rows if self._parquet_rows else size


def read_samples(recipe: Recipe, files: list[InputFile], run: RunFolder) -> list[SourceSample]:
    """Read parts of up to three files of each source, the first, a middle and the last one; `run` takes the ledgers."""
    return [_read_source(recipe, s, [f for f in files if f.source == s.name], run) for s in recipe.sources]


def _read_source(recipe: Recipe, source: Source, files: list[InputFile], run: RunFolder) -> SourceSample:
    sizes = [file_bytes(file) for file in files]
    chosen = [files[position] for position in evenly_spread(len(files), FILES_OF_A_SOURCE)]
    documents: list[Document] = []
    consumed, rows = 0.0, 0
    for shard, file in enumerate(chosen):
        task = ShardTask(run, f"read-{source.name}", shard, {})
        reader = ReadPart(task, file, source, recipe.ingest.maximum_characters)
        size = file_bytes(file) or 0
        started, position = time.monotonic(), float(size)
        for document in reader.run():
            task.keep()
            documents.append(document)
            if reader.bytes_read(size) >= PART_BYTES or time.monotonic() - started > PART_SECONDS:
                position = min(size, reader.bytes_read(size))
                break
        consumed += position
        rows += task.commit().rows.rows_in
    known = None if None in sizes else sum(size or 0 for size in sizes)
    return SourceSample(source.name, len(files), known, len(chosen), consumed, rows, documents)


def file_bytes(file: InputFile) -> int | None:
    """The size of an input file, None where its store does not tell."""
    filesystem, path = fsspec.core.url_to_fs(file.uri)
    size = filesystem.size(path)
    return None if size is None else int(size)


def evenly_spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices below `count`, the first and the last among them, evenly spread."""
    if count <= wanted:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(position * (count - 1) / (wanted - 1)) for position in range(wanted)]


def choose_documents(samples: list[SourceSample], most: tuple[int, int]) -> list[Document]:
    """The documents to measure, from each source in proportion to what it holds; `most`: documents, characters of text."""
    totals = [len(sample.documents) * sample.factor for sample in samples]
    wanted, characters = most
    while True:
        chosen: list[Document] = []
        for sample, total in zip(samples, totals, strict=True):
            quota = max(3, round(wanted * total / max(1.0, sum(totals))))
            chosen += [sample.documents[i] for i in evenly_spread(len(sample.documents), quota)]
        if sum(map(_text_characters, chosen)) <= characters or wanted <= 6:
            return chosen
        wanted = wanted * 3 // 4


def _text_characters(document: Document) -> float:
    return len(document.text) * (HTML_TEXT_SHARE if document.metadata["html"] else 1.0)


class YieldDocuments(PipelineStep):
    """Yields copies of documents that were read before, in place of `ReadRecords`."""

    type = "📖 - READER"

    def __init__(self, task: ShardTask, documents: list[Document]):
        super().__init__()
        self.task, self.documents = task, documents

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        for document in self.documents:
            self.task.read()
            yield Document(text=document.text, id=document.id, metadata=dict(document.metadata))
