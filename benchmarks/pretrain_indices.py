"""Time and memory of the indices of a large corpus: `python -m benchmarks.pretrain_indices`.

Document lengths are lognormal (median 400 tokens, mean about 660), in two sources with 80 and 20 of 100 documents; one
epoch of all of them, so the samples are those of the whole corpus. Nothing is read from disk. Peak memory is that of the
process, the lengths included.
"""

import argparse
import resource
import time

import numpy as np
from numpy.typing import NDArray

from pretrain.blend import samples_per_source
from pretrain.gpt_indices import EXTRA_TOKEN, build_gpt_indices
from pretrain.stages import staged_blend

_SHARES = {"safe": 0.8, "tagged": 0.2}
_SIGMA = 1.0
_BLOCK = 1 << 20


def lognormal_lengths(documents: int, median: float, seed: int) -> NDArray[np.int32]:
    """int32 [documents], each at least 1; drawn in blocks, so that only the result is large."""
    random = np.random.default_rng(seed)
    lengths = np.empty(documents, dtype=np.int32)
    for start in range(0, documents, _BLOCK):
        part = lengths[start : start + _BLOCK]
        part[:] = np.maximum(1, median * random.lognormal(0.0, _SIGMA, len(part)))
    return lengths


def main() -> None:
    """Prints one line for each index and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000_000)
    parser.add_argument("--sequence-length", type=int, default=2048)
    parser.add_argument("--median", type=float, default=400.0, help="tokens of the median document")
    arguments = parser.parse_args()
    lengths = {
        name: lognormal_lengths(int(arguments.documents * share), arguments.median, seed)
        for seed, (name, share) in enumerate(_SHARES.items())
    }
    tokens = {name: int(part.sum(dtype=np.int64)) for name, part in lengths.items()}
    # The surplus that each source is built with must fit into its one epoch.
    available = min((tokens[name] - EXTRA_TOKEN) / share for name, share in weights(tokens).items())
    samples = int(available / arguments.sequence_length / 1.0051)
    began = time.perf_counter()
    kept = []
    for name, wanted in zip(lengths, samples_per_source(list(weights(tokens).values()), samples), strict=True):
        started = time.perf_counter()
        indices = build_gpt_indices(lengths[name], arguments.sequence_length, wanted, seed=1234)
        kept.append(indices)
        print(
            f"{name}: {len(lengths[name]):,} documents, {tokens[name]:,} tokens, {len(indices.shuffle):,} samples: "
            f"{time.perf_counter() - started:.1f} s",
            flush=True,
        )
    started = time.perf_counter()
    blend = staged_blend([list(weights(tokens).values())], [samples])
    print(f"blend of {len(blend.sources):,} samples: {time.perf_counter() - started:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"all: {time.perf_counter() - began:.1f} s, peak memory {peak / 1e9:.2f} GB")


def weights(tokens: dict[str, int]) -> dict[str, float]:
    """Share of each source, by its tokens."""
    return {name: count / sum(tokens.values()) for name, count in tokens.items()}


if __name__ == "__main__":
    main()
