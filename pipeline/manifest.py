"""Manifests: one JSON file per finished shard, with its ledger, its outputs' hashes and its identity."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from classifiers.errors import DataError
from pipeline.atomic_files import file_sha256, json_sha256, write_json


@dataclass
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


@dataclass
class OutputFile:
    """One file that a shard wrote or read; `mtime_ns` lets a resume trust an untouched file without reading it again."""

    sha256: str
    bytes: int
    mtime_ns: int
    rows: int | None = None

    @classmethod
    def of(cls, path: Path, rows: int | None = None) -> "OutputFile":
        stat = path.stat()
        return cls(file_sha256(path), stat.st_size, stat.st_mtime_ns, rows)


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
        value = asdict(self)
        value["rows"] = self.rows.to_json()
        value["identity_sha256"] = self.identity_sha256
        write_json(path, {**value, "manifest_sha256": json_sha256(value)})

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Raises DataError where the file is not a manifest or was edited (its hash no longer fits)."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            recorded = value.pop("manifest_sha256")
            found = json_sha256(value)
            del value["identity_sha256"]
            value["rows"] = Rows.from_json(value["rows"])
            for files in ("outputs", "raw_files"):
                value[files] = {name: OutputFile(**entry) for name, entry in value[files].items()}
            manifest = cls(**value)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: not a manifest of this version ({error!r}); remove it to redo the shard"
            ) from error
        if recorded != found:
            raise DataError(f"{path}: the manifest was edited (its hash does not fit); remove it to redo the shard")
        return manifest


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one dictionary of dotted keys; lists and scalars are leaves."""
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in flatten(item, f"{prefix}{key}.").items()}
    return {prefix[:-1]: value}


def identity_difference(finished: dict[str, Any], wanted: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two identities differ, each with (finished value, wanted value); None = absent."""
    a, b = flatten(finished), flatten(wanted)
    return {key: (a.get(key), b.get(key)) for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key)}


def output_state(path: Path, recorded: OutputFile, full: bool = False) -> str:
    """ "ok", "missing" or "changed": size and time first, the hash where the time differs or `full` is asked for."""
    if not path.is_file():
        return "missing"
    stat = path.stat()
    if stat.st_size != recorded.bytes:
        return "changed"
    if not full and stat.st_mtime_ns == recorded.mtime_ns:
        return "ok"
    return "ok" if file_sha256(path) == recorded.sha256 else "changed"
