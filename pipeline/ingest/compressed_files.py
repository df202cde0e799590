"""Raw files, unpacked while they are read: a bounded piece at a time, and with an error where the file breaks off."""

import io
import lzma
import zlib
from typing import IO

import fsspec
import pyarrow as pa

# What reading raises at a truncated or damaged place, by packer.
DAMAGED = (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)


def unpacked(file: IO[bytes], name: str) -> IO[bytes]:
    """The stream behind `file`, by the ending of its name (.gz, .zst, .bz2, .xz); `file` itself where it is not packed.

    Reading raises one of DAMAGED at a truncated or damaged place. zstd through Arrow: fsspec's stream has no lines
    to read, and ends without a word where the file is cut off.
    """
    compression = fsspec.utils.infer_compression(name)
    if compression is None:
        return file
    if compression == "zstd":
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"))
    stream: IO[bytes] = fsspec.compression.compr[compression](file, mode="rb")
    return stream
