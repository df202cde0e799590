"""Random numbers that depend on a document's id alone, never on sharding, order, workers or restarts."""

import hashlib

import numpy as np

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def draw_key(seed: int, stream: str, document_id: str) -> int:
    """64-bit key of one document in one stream: the little-endian integer of blake2b-8 over `seed|stream|id`."""
    digest = hashlib.blake2b(f"{seed}|{stream}|{document_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def request_seed(seed: int, request_id: str) -> int:
    """The sampling seed of one request to a language model, in [0, 2^31): stream "request"."""
    return draw_key(seed, "request", request_id) & 0x7FFFFFFF


def keyed_uniforms(seed: int, stream: str, document_id: str, count: int) -> np.ndarray:
    """The draws u_1 ... u_count of one document: float64 in [0, 1), splitmix64 counted from the document's key.

    Streams in use: "tag" (harmfulness tag), "template" (rephrasing style), "names" (speakers of a dialogue),
    "synthesis" (which documents are written about where a recipe asks for a share).
    A longer request begins with the shorter one, so results are nested in `count`.
    """
    with np.errstate(over="ignore"):
        z = np.uint64(draw_key(seed, stream, document_id)) + np.arange(1, count + 1, dtype=np.uint64) * _WEYL
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
