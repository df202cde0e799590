"""Small files that unpack to enormous ones, and files that break off: bounded memory and work, one entry in quarantine."""

import bz2
import gzip
import io
import json
import lzma
import os
import random
import resource
import time
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from warcio.warcwriter import WARCWriter

from classifiers.errors import DataError
from pipeline.ingest import warc_records
from pipeline.ingest.input_files import InputFile
from pipeline.ingest.warc_records import read_warc
from pipeline.run_folder import RunFolder
from pipeline.stages.ingest import IngestStage, ingested_table
from pipeline.tables import read_rows
from tests.pipeline.stage_runs import run_stage, small_recipe

GOOD = "The ferry to the island leaves at nine and at noon, and the crossing takes about forty minutes. "
LEAST = {"maximum_characters": 1000}  # a line of 6 kB is too long, one of 6 MB is a bomb
PACKERS = {"gz": lambda data: gzip.compress(data, 1), "zst": zstandard.compress}


def row(name):
    return json.dumps({"id": name, "text": GOOD + name}).encode() + b"\n"


def ingest(folder, name, content):
    """(manifest, ids that were kept, quarantine entries) of one input file."""
    kind = next(kind for kind in ("warc", "jsonl", "parquet") if kind in name)
    recipe, run = small_recipe(folder, ingest=LEAST), RunFolder(folder / "run")
    (folder / name).write_bytes(content)
    stage = IngestStage(recipe, run, [InputFile("texts", kind, name, str(folder / name))])
    manifest = run_stage(stage)
    quarantine = run.quarantine("ingest", 0)
    entries = [json.loads(line) for line in quarantine.read_text().splitlines()] if quarantine.exists() else []
    return manifest, [entry["record"] for entry in read_rows(ingested_table(run, 0))], entries


def peak_growth(work):
    """MiB by which the peak memory of a process of its own grows while it works."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            work()
            os.write(writer, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return int(os.read(reader, 32)) / 1024


@pytest.mark.parametrize("ending", PACKERS)
def test_a_line_without_end_is_not_read_to_its_end(tmp_path, ending):
    content = PACKERS[ending](row("first") + b"a" * (64 << 20) + b"\n" + row("behind"))
    assert len(content) < 1 << 20
    manifest, kept, entries = ingest(tmp_path, f"bomb.jsonl.{ending}", content)
    assert kept == ["first"] and manifest.rows.missing() == 0
    assert manifest.rows.quarantined == {"decompression_bomb": 1}
    assert "not read beyond line 2: it is longer than 6000000 bytes" in entries[0]["detail"]
    growth = peak_growth(lambda: ingest(tmp_path, f"bomb.jsonl.{ending}", content))
    assert growth < 48, "less than what it unpacks to"


@pytest.mark.parametrize("ending", PACKERS)
def test_a_line_that_is_only_too_long_costs_itself_alone(tmp_path, ending):
    content = PACKERS[ending](row("first") + b"a" * (1 << 20) + b"\n" + row("behind"))
    manifest, kept, _ = ingest(tmp_path, f"long.jsonl.{ending}", content)
    assert kept == ["first", "behind"] and manifest.rows.quarantined == {"too_long": 1}


DELTA = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}


def parquet(texts, **options):
    """A Parquet file of texts with their numbers as ids."""
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({"id": list(map(str, range(len(texts)))), "text": texts}), buffer, compression="zstd", **options
    )
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{"dictionary_pagesize_limit": 1 << 30}, DELTA], ids=["dictionary", "delta"])
def test_a_parquet_file_of_one_long_text_is_not_written_out_for_all_rows(tmp_path, options):
    long = 200
    texts = pa.DictionaryArray.from_arrays(
        pa.array([0, *[1] * long, 2], pa.int32()), [GOOD, "a" * (8 << 20), GOOD + "last"]
    )
    content = parquet(texts.cast(pa.string()), **options)
    assert len(content) < 1 << 20
    del texts
    manifest, kept, entries = ingest(tmp_path, "bomb.parquet", content)
    assert (
        kept == ["0", str(long + 1)]
        and manifest.rows.quarantined == {"too_long": long}
        and manifest.rows.missing() == 0
    )
    assert entries[0]["record"] == "1" and "8388608 characters" in entries[0]["detail"]
    assert peak_growth(lambda: ingest(tmp_path, "bomb.parquet", content)) < 256, "all of a batch of 256: 1.6 GiB"


@pytest.mark.parametrize(
    "options", [{}, DELTA, {"data_page_version": "2.0", "use_dictionary": False}, {"row_group_size": 3}]
)
def test_parquet_is_read_in_every_encoding(tmp_path, options):
    texts = [f"{GOOD} {number}" for number in range(10)]
    _, kept, _ = ingest(tmp_path, "texts.parquet", parquet(texts, **options))
    assert kept == [str(number) for number in range(10)]


@pytest.mark.parametrize("dictionary", [False, True])
def test_a_text_that_is_no_utf8_costs_its_row_of_a_parquet_file_alone(tmp_path, dictionary):
    texts = pa.array([f"{GOOD} {number}".encode() for number in range(5)] + [b"caf\xe9"] + [GOOD.encode()])
    unchecked = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    content = parquet(unchecked.dictionary_encode() if dictionary else unchecked)
    manifest, kept, entries = ingest(tmp_path, "texts.parquet", content)
    assert kept == ["0", "1", "2", "3", "4", "6"] and manifest.rows.quarantined == {"invalid_utf8": 1}
    assert entries[0]["record"] == "texts.parquet:6" and entries[0]["detail"].startswith("row 6: 'utf-8' codec")


def test_a_parquet_file_whose_column_has_no_name_in_utf8_is_named(tmp_path):
    content = parquet([GOOD], store_schema=False)
    with pytest.raises(DataError, match=r"texts\.parquet: cannot be read as Parquet: 'utf-8' codec"):
        ingest(tmp_path, "texts.parquet", content.replace(b"text", b"te\xe9t"))


@pytest.mark.parametrize("frames", [1, 2])
def test_a_zstd_file_is_read_to_its_end_and_a_truncated_one_says_so(tmp_path, frames):
    rows = [os.urandom(200).hex() for _ in range(200)]
    parts = [b"".join(row(name) for name in rows[n::frames]) for n in range(frames)]
    content = b"".join(map(zstandard.compress, parts))
    manifest, kept, _ = ingest(tmp_path, "whole.jsonl.zst", content)
    assert sorted(kept) == sorted(rows) and manifest.rows.quarantined == {}
    manifest, fewer, entries = ingest(tmp_path, "cut.jsonl.zst", content[: -len(content) // 5])
    assert fewer == kept[: len(fewer)] and len(fewer) < len(kept)
    assert manifest.rows.quarantined == {"truncated": 1} and "cannot be read beyond line" in entries[0]["detail"]


@pytest.mark.parametrize("ending", ["gz", "xz", "bz2"])  # zstd finds damage at a frame's end, if at all
@pytest.mark.parametrize("share", [0, 0.5], ids=["at its beginning", "in its middle"])
def test_a_damaged_file_keeps_what_can_be_read(tmp_path, ending, share):
    pack = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}[ending]
    names = [random.Random(number).randbytes(200).hex() for number in range(5000)]
    content = bytearray(pack(b"".join(map(row, names))))
    place = int(share * len(content)) or 20
    content[place : place + 40] = b"\xff" * 40
    manifest, kept, entries = ingest(tmp_path, f"damaged.jsonl.{ending}", bytes(content))
    assert manifest.rows.missing() == 0 and kept == names[: len(kept)] and len(kept) < len(names)
    assert entries[-1]["reason"] == "truncated" and "cannot be read beyond line" in entries[-1]["detail"]


def warc(*payloads, http_headers=b""):
    """A WARC file with one response a payload, and its records' first bytes."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    for number, payload in enumerate(payloads):
        content = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n" + http_headers + b"\r\n" + payload
        writer.write_record(
            writer.create_warc_record(f"http://e.example/{number}", "response", payload=io.BytesIO(content))
        )
    return buffer.getvalue()


def test_a_warc_member_that_does_not_end(tmp_path, monkeypatch):
    monkeypatch.setattr(warc_records, "BOMB_RECORDS", 10)
    page = GOOD.encode()
    manifest, kept, _ = ingest(tmp_path, "large.warc.gz", warc(page, b"a" * 20_000, page + b"last"))
    assert len(kept) == 2 and manifest.rows.quarantined == {"too_large": 1}
    content = warc(page, b"a" * (64 << 20), page + b"last")
    manifest, kept, entries = ingest(tmp_path, "bomb.warc.gz", content)
    assert len(kept) == 1 and manifest.rows.quarantined == {"decompression_bomb": 1}
    assert "the rest is not read" in entries[0]["detail"]
    assert peak_growth(lambda: ingest(tmp_path, "bomb.warc.gz", content)) < 48


def test_a_page_that_is_packed_once_more(tmp_path):
    page = gzip.compress(b"a" * (128 << 20), 9)
    content = warc(page, http_headers=b"Content-Encoding: gzip\r\n")
    assert len(content) < 1 << 18
    found = []
    assert peak_growth(lambda: list(read_warc(io.BytesIO(content), 1 << 20))) < 64
    found = list(read_warc(io.BytesIO(content), 1 << 20))
    assert [record.error.split(":")[0] for record in found] == ["too_large"]


def test_a_corrupt_member_that_holds_many_beginnings_takes_time_in_proportion():
    def seconds(size):
        stored = zlib.compressobj(0, wbits=31)
        member = bytearray(stored.compress(b"\x1f\x8b\x08" * (size // 3)) + stored.flush())
        member[-9] ^= 0xFF  # its checksum
        content = bytes(member) + warc(GOOD.encode())
        start = time.process_time()
        records = list(read_warc(io.BytesIO(content), 20 << 20))
        assert [record.error is None for record in records] == [False, True]
        return time.process_time() - start

    assert min(seconds(1 << 20) for _ in range(3)) < 24 * min(seconds(1 << 17) for _ in range(3))
