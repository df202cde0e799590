"""Manifests: one JSON file per finished shard, with its ledger, its outputs' hashes and its identity."""

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from classifiers.errors import DataError
from pipeline.atomic_files import file_sha256, json_sha256, write_json


@dataclass(slots=True)
class Rows:
    """The ledger of one shard in one stage: `rows_in` = `kept` + sum(`dropped`) + sum(`quarantined`)."""

    rows_in: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)

    def missing(self) -> int:
        """Rows that came in and are nowhere; 0 where the ledger is true."""
        return self.rows_in - self.kept - sum(self.dropped.values()) - sum(self.quarantined.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "in": self.rows_in,
            "kept": self.kept,
            "dropped": dict(sorted(self.dropped.items())),
            "quarantined": dict(sorted(self.quarantined.items())),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Rows":
        return cls(value["in"], value["kept"], value["dropped"], value["quarantined"])


@dataclass(slots=True)
class OutputFile:
    """One file that a shard wrote or read; `mtime_ns` lets a resume trust an untouched file without reading it again."""

    sha256: str
    bytes: int
    mtime_ns: int
    rows: int | None = None

    @classmethod
    def of(cls, path: Path, rows: int | None = None) -> "OutputFile":
        found = path.stat()
        return cls(file_sha256(path), found.st_size, found.st_mtime_ns, rows)


@dataclass
class Manifest:
    """What one finished shard did. `identity` (the parts) decides whether it may be reused; the rest is provenance."""

    stage: str
    shard: int
    identity: dict[str, Any]
    rows: Rows
    outputs: dict[str, OutputFile]
    raw_files: dict[str, OutputFile] = field(default_factory=dict)
    seconds: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    numerics: dict[str, str] = field(default_factory=dict)
    commit: str | None = None
    forced_stale: bool = False

    @property
    def identity_sha256(self) -> str:
        return json_sha256(self.identity)

    def write(self, path: Path) -> None:
        """Write atomically; this is the moment at which the shard counts as finished."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The file's content, with a hash over all of it."""
        value = {**asdict(self), "rows": self.rows.to_json(), "identity_sha256": self.identity_sha256}
        return {**value, "manifest_sha256": json_sha256(value)}

    @classmethod
    def read(cls, path: Path | str) -> "Manifest":
        """Raises DataError where the file is not a manifest or was edited (its hash no longer fits)."""
        content = _read_bytes(path)
        try:
            value, fits = _parse(content)
            del value["identity_sha256"]
            value["rows"] = Rows.from_json(value["rows"])
            for files in ("outputs", "raw_files"):
                value[files] = {name: OutputFile(**entry) for name, entry in value[files].items()}
            manifest = cls(**value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: not a manifest of this version ({error!r}); remove it to redo the shard"
            ) from error
        if not fits:
            raise DataError(f"{path}: the manifest was edited (its hash does not fit); remove it to redo the shard")
        return manifest


def _read_bytes(path: Path | str) -> bytes:
    """A small file's content with the fewest calls: `status` reads a hundred thousand of them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        content = os.read(descriptor, 1 << 16)
        while len(content) >= 1 << 16 and (more := os.read(descriptor, 1 << 24)):
            content += more
        return content
    finally:
        os.close(descriptor)


def _parse(content: bytes) -> tuple[dict[str, Any], bool]:
    """(the values, whether their hash fits). The quick way first; where orjson writes a number or a letter otherwise than
    Python, or cannot read it (NaN), the slow way decides."""
    try:
        value = orjson.loads(content)
        recorded = value.pop("manifest_sha256")
        if _quick_sha256(value) == recorded:
            return value, True
    except orjson.JSONDecodeError:
        pass  # read again below
    value = json.loads(content)
    recorded = value.pop("manifest_sha256")
    return value, json_sha256(value) == recorded


def _quick_sha256(value: Any) -> str:
    """`json_sha256` of most values (ASCII texts, ordinary numbers), in a fifth of the time."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one dictionary of dotted keys; lists and scalars are leaves."""
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}{key}.").items()}
    return {prefix[:-1]: value}


def identity_difference(finished: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two identities differ, each with (finished value, wanted value); None = absent."""
    a, b = flatten(finished), flatten(wanted)
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def output_state(path: Path | str, recorded: OutputFile, full: bool = False) -> str:
    """ "ok", "missing" or "changed": size and time first, the hash where the time differs or `full` is asked for."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a Path costs more than the call)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if not stat.S_ISREG(found.st_mode):
        return "missing"
    if found.st_size != recorded.bytes:
        return "changed"
    if not full and found.st_mtime_ns == recorded.mtime_ns:
        return "ok"
    return "ok" if file_sha256(Path(path)) == recorded.sha256 else "changed"
