"""Fixed-size signatures of documents, and the search for duplicates among those of all shards."""

from collections.abc import Iterable

import numpy as np

# ids are big-endian so that their order is that of their hex digits
SIGNATURE = np.dtype([("content", "<u8", 2), ("id", ">u8", 2), ("row", "<u4")])
FINDING = np.dtype([("shard", "<u4"), ("row", "<u4"), ("kind", "u1")])
DUPLICATE, DUPLICATE_ID = 0, 1


class SignatureCollector:
    """Collects (content hash, id, row) of a shard's documents in order; 36 bytes a document."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._rows = 0

    def add(self, document_id: str, content_sha256: str) -> None:
        """Add the next row: a 32-digit id and a sha256 in hex, of which the first 128 bits are kept."""
        self._buffer += bytes.fromhex(content_sha256)[:16] + bytes.fromhex(document_id)
        self._buffer += self._rows.to_bytes(4, "little")
        self._rows += 1

    def sorted_array(self) -> np.ndarray:
        """The signatures as a SIGNATURE array, sorted by content hash."""
        array = np.frombuffer(bytes(self._buffer), dtype=SIGNATURE)
        return array[np.lexsort((array["row"], array["content"][:, 1], array["content"][:, 0]))]


def find_duplicates(shards: Iterable[tuple[int, np.ndarray]], bucket: int, buckets: int) -> np.ndarray:
    """Rows to leave out, as a FINDING array sorted by (shard, row), among the hashes that fall into one bucket.

    Of documents with one content the smallest id stays, whatever the sharding (DUPLICATE for the others). Documents
    that share an id but not the content are all marked DUPLICATE_ID: which one the id means cannot be known.
    """
    by_content, by_id, shard_content, shard_id = [], [], [], []
    for shard, array in shards:
        mine = array[array["content"][:, 0] % np.uint64(buckets) == bucket]
        by_content.append(mine)
        shard_content.append(np.full(len(mine), shard, "<u4"))
        mine = array[array["id"][:, 0] % np.uint64(buckets) == bucket]
        by_id.append(mine)
        shard_id.append(np.full(len(mine), shard, "<u4"))
    if not by_content:
        return np.empty(0, FINDING)
    findings = np.concatenate(
        [
            _later_of_equal(np.concatenate(by_content), np.concatenate(shard_content)),
            _conflicting_ids(np.concatenate(by_id), np.concatenate(shard_id)),
        ]
    )
    return np.sort(findings, order=["shard", "row", "kind"])


def _equal_to_previous(values: np.ndarray) -> np.ndarray:
    """For rows of two words, sorted: whether each equals the one before it."""
    same = np.zeros(len(values), bool)
    same[1:] = (values[1:] == values[:-1]).all(axis=1)
    return same


def _later_of_equal(array: np.ndarray, shard: np.ndarray) -> np.ndarray:
    content, identifier = array["content"], array["id"]
    order = np.lexsort((array["row"], shard, identifier[:, 1], identifier[:, 0], content[:, 1], content[:, 0]))
    losers = order[_equal_to_previous(content[order])]
    return _findings(shard[losers], array["row"][losers], DUPLICATE)


def _conflicting_ids(array: np.ndarray, shard: np.ndarray) -> np.ndarray:
    content, identifier = array["content"], array["id"]
    order = np.lexsort((content[:, 1], content[:, 0], identifier[:, 1], identifier[:, 0]))
    same_id = _equal_to_previous(identifier[order])
    conflict = same_id & ~_equal_to_previous(content[order])
    group = np.cumsum(~same_id) - 1
    conflicting = order[np.isin(group, group[conflict])]
    return _findings(shard[conflicting], array["row"][conflicting], DUPLICATE_ID)


def _findings(shard: np.ndarray, row: np.ndarray, kind: int) -> np.ndarray:
    found = np.empty(len(shard), FINDING)
    found["shard"], found["row"], found["kind"] = shard, row, kind
    return found


def findings_of_shard(findings: np.ndarray, shard: int) -> dict[int, int]:
    """row -> kind for one shard, from a sorted FINDING array; an id conflict outweighs a duplicate."""
    low, high = np.searchsorted(findings["shard"], [shard, shard + 1])
    part = findings[low:high]
    return dict(zip(part["row"].tolist(), part["kind"].tolist(), strict=True))
