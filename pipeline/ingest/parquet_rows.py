"""Rows of a Parquet file in bounded memory: a dictionary of one long text can stand for millions of rows in a small file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BATCH_ROWS = 256
PROBE_BYTES = 1 << 20  # of a column, as stored, that are read at once to look at its dictionary


@dataclass(frozen=True)
class LongText:
    """Stands for a text that is too long to be kept."""

    bytes: int


def parquet_rows(file: IO[bytes], columns: Sequence[str], longest: int) -> Iterator[dict[str, Any]]:
    """The rows as column -> value. In row groups with a dictionary that holds a text of more than `longest` bytes, such texts come
    as LongText and nothing is expanded. Raises pyarrow's errors for what is no Parquet."""
    source = pa.PythonFile(file, mode="r")  # one, so that its lock orders the reads of both
    plain = pq.ParquetFile(source)
    texts = [name for name in columns if _is_text(plain.schema_arrow.field(name).type)]
    encoded = pq.ParquetFile(
        source, metadata=plain.metadata, read_dictionary=texts, pre_buffer=False, buffer_size=PROBE_BYTES
    )
    for group in range(plain.num_row_groups):
        # The dictionary is the first page of a column: the first batch has all of it.
        first = next(encoded.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns), None)
        if first is None:
            continue
        if max([0, *(_longest(first.column(name)) for name in texts)]) <= longest:
            for batch in plain.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                yield from batch.to_pylist()
        else:
            for batch in encoded.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                yield from _one_by_one(batch, longest)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))


def _lengths(column: Any) -> Any:
    return pc.binary_length(column.dictionary if isinstance(column, pa.DictionaryArray) else column)


def _longest(column: Any) -> int:
    return int(pc.max(_lengths(column)).as_py() or 0)


def _one_by_one(batch: pa.RecordBatch, longest: int) -> Iterator[dict[str, Any]]:
    lengths = {
        name: _lengths(column).to_pylist()
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
        if isinstance(column, pa.DictionaryArray)
    }
    for row in range(batch.num_rows):
        values = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            index = column.indices[row].as_py() if name in lengths else None
            long = index is not None and lengths[name][index] > longest
            values[name] = LongText(lengths[name][index]) if long else column[row].as_py()
        yield values
