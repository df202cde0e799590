"""How well a number tells unsafe documents from safe ones: AUROC, within sources, with its uncertainty. numpy alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def average_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1-based ranks [n] of `values` [n] from the smallest; equal values share the mean of their ranks."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - (sizes - 1) / 2)[group]


def auroc(unsafe: NDArray[np.float64], safe: NDArray[np.float64]) -> float:
    """Probability that a value of `unsafe` exceeds one of `safe`, ties counting one half: (R - m(m+1)/2) / (m n).

    R is the rank sum of the m unsafe values among all m + n (Mann-Whitney). Raises ValueError where either is empty.
    """
    m, n = len(unsafe), len(safe)
    if not m or not n:
        raise ValueError(f"AUROC needs values on both sides, not {m} unsafe and {n} safe")
    rank_sum = average_ranks(np.concatenate([unsafe, safe]).astype(np.float64))[:m].sum()
    return float((rank_sum - m * (m + 1) / 2) / (m * n))


@dataclass(frozen=True)
class Separation:
    """AUROC over all documents, within each source that has enough of both, and averaged over those sources.

    `documents` are the unsafe and safe ones of each of those sources; `average` is None where there is no such source,
    `overall` where a side is empty.
    """

    overall: float | None
    by_source: dict[str, float]
    average: float | None
    documents: dict[str, tuple[int, int]]


def separation(
    values: NDArray[np.float64], scores: NDArray[np.int64], sources: Sequence[str], unsafe_from: int, least: int
) -> Separation:
    """How `values` [n] separate documents of score >= `unsafe_from` from those of score 0; others are left out.

    A source counts by itself where it has at least `least` documents on each side.
    """
    kind = np.asarray(sources)
    unsafe, safe = scores >= unsafe_from, scores == 0
    by_source: dict[str, float] = {}
    documents: dict[str, tuple[int, int]] = {}
    for source in sorted(set(sources)):
        here = kind == source
        counts = int((unsafe & here).sum()), int((safe & here).sum())
        if min(counts) >= max(least, 1):
            by_source[source] = auroc(values[unsafe & here], values[safe & here])
            documents[source] = counts
    overall = auroc(values[unsafe], values[safe]) if unsafe.any() and safe.any() else None
    average = float(np.mean(list(by_source.values()))) if by_source else None
    return Separation(overall, by_source, average, documents)


def share_of_source(scores: NDArray[np.int64], sources: Sequence[str], unsafe_from: int) -> NDArray[np.float64]:
    """For each document [n] the share of unsafe ones among the unsafe and safe documents of its source.

    What can be told from the source alone, at best: the share is that of the very documents it is measured on.
    """
    kind = np.asarray(sources)
    unsafe, safe = scores >= unsafe_from, scores == 0
    shares = np.zeros(len(kind))
    for source in set(sources):
        here = kind == source
        shares[here] = (unsafe & here).sum() / max(1, ((unsafe | safe) & here).sum())
    return shares


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float], strata: Sequence[object], draws: int, seed: int
) -> tuple[float, float]:
    """2.5 % and 97.5 % points of `statistic` over `draws` resamples of the documents, with replacement.

    `statistic` takes the drawn documents' numbers [n]. `strata` [n] names each document's group; groups keep their sizes.
    """
    groups: dict[object, list[int]] = {}
    for number, stratum in enumerate(strata):
        groups.setdefault(stratum, []).append(number)
    members = [np.array(group) for group in groups.values()]
    random = np.random.default_rng(seed)
    found = [
        statistic(np.concatenate([group[random.integers(0, len(group), len(group))] for group in members]))
        for _ in range(draws)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
