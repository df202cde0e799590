"""Document ids, content hashes, and the columns of a document shard."""

import hashlib

import pyarrow as pa

DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("url", pa.string()),
        ("record", pa.string()),
        ("language", pa.string()),
        ("language_probability", pa.float32()),
        ("content_sha256", pa.string()),
    ]
)


def document_id(source: str, locator: str) -> str:
    """128-bit id as 32 hex digits: a hash of the source's name and the record's locator, never of a position in a run."""
    return hashlib.blake2b(f"{source}\0{locator}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def content_sha256(text: str) -> str:
    """Hex sha256 of the normalised text (UTF-8): the key of exact duplicates."""
    return hashlib.sha256(text.encode()).hexdigest()


def normalise_text(text: str) -> str:
    """The text as it is stored: LF line ends, no NUL and no lone surrogates, no white space at the ends of lines or text."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "\n".join(line.rstrip() for line in text.split("\n")).strip()
