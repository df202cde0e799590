"""The tally's sums as the card's tables: score shares and phrase rates, each with its interval."""

from collections.abc import Iterable
from typing import Any

from pipeline.report.phrase_lists import CATEGORY_TITLES
from pipeline.report.rates import design_effect, rate_interval, wilson_interval
from pipeline.report.tallies import ALL, KINDS, LEVELS, SliceSums, Tally

SYNTHETIC_KINDS = ("rephrased", "refusal", "moral")
TOP_PHRASES = 10


def rate_entry(sums: SliceSums, category: str, phrases: int) -> dict[str, Any] | None:
    """Hits, rate per million tokens as sum and as mean over `phrases`, with intervals; None for a slice without tokens."""
    if sums.tokens == 0:
        return None
    cluster = sums.category(category)
    effect = design_effect(
        sums.documents, sums.tokens, sums.tokens_squared, cluster.hits, cluster.hits_squared, cluster.hits_tokens
    )
    rate = rate_interval(cluster.hits, sums.tokens, effect)
    return {
        "hits": cluster.hits,
        "sum": vars(rate),
        "mean": vars(rate.scaled(1 / phrases)),
        "design_effect": effect,
    }


def slice_entry(sums: SliceSums, lists: dict[str, int]) -> dict[str, Any]:
    """Documents, tokens and the rates of all categories, and of all together, in one slice."""
    categories = {category: rate_entry(sums, category, phrases) for category, phrases in lists.items()}
    return {
        "documents": sums.documents,
        "tokens": sums.tokens,
        "all": rate_entry(sums, ALL, sum(lists.values())),
        "categories": categories,
    }


def histogram_entry(histogram: dict[int | None, int]) -> dict[str, Any]:
    """Documents and share (with Wilson interval) of each score among the scored; the unscored apart."""
    scored = sum(histogram[level] for level in LEVELS)
    levels = [
        {
            "score": level,
            "documents": histogram[level],
            "share": vars(wilson_interval(histogram[level], scored)) if scored else None,
        }
        for level in LEVELS
    ]
    return {"scored": scored, "unscored": histogram[None], "levels": levels}


def unsafe_share(histogram: dict[int | None, int], threshold: int) -> dict[str, float] | None:
    """Share of scored documents with a score of at least `threshold`, with its interval; None where none is scored."""
    scored = sum(histogram[level] for level in LEVELS)
    flagged = sum(histogram[level] for level in LEVELS if level >= threshold)
    return vars(wilson_interval(flagged, scored)) if scored else None


def histograms(tally: Tally) -> dict[str, Any]:
    """Score histogram of all originals, and of each source."""
    by_source = {source: histogram_entry(tally.score_histogram(source=source)) for source in tally.sources()}
    return {"all": histogram_entry(tally.score_histogram()), "by_source": by_source}


def phrase_rates(tally: Tally) -> dict[str, Any]:
    """Rates by kind, by kind and score level, by source and kind, and the comparisons original - synthetic."""
    sizes = {category: len(tally.lists[category]) for category in CATEGORY_TITLES}
    kinds = [kind for kind in KINDS if tally.total(kind).documents]
    return {
        "phrases_by_category": sizes,
        "by_kind": {kind: slice_entry(tally.total(kind), sizes) for kind in kinds},
        "by_level": {kind: _by_level(tally, kind, sizes) for kind in kinds},
        "by_source": {
            source: {
                kind: slice_entry(tally.total(kind, sources=[source]), sizes)
                for kind in kinds
                if tally.total(kind, sources=[source]).documents
            }
            for source in tally.sources()
        },
        "comparisons": {kind: comparison(tally, kind, sizes) for kind in SYNTHETIC_KINDS if kind in kinds},
        "top_phrases": {kind: top_phrases(tally, kind) for kind in kinds},
    }


def _by_level(tally: Tally, kind: str, sizes: dict[str, int]) -> dict[str, Any]:
    totals = {level: tally.total(kind, scores=[level]) for level in LEVELS}
    return {str(level): slice_entry(sums, sizes) for level, sums in totals.items() if sums.documents}


def _levels_of(tally: Tally, kind: str) -> list[int]:
    return [level for level in LEVELS if tally.total(kind, scores=[level]).documents]


def comparison(tally: Tally, kind: str, sizes: dict[str, int]) -> dict[str, Any]:
    """A synthetic kind beside the originals of the same score levels: level by level is the only fair comparison."""
    levels = _levels_of(tally, kind)
    return {
        "levels": levels,
        "original": slice_entry(tally.total("original", scores=levels), sizes),
        "synthetic": slice_entry(tally.total(kind, scores=levels), sizes),
    }


def top_phrases(tally: Tally, kind: str) -> list[dict[str, Any]]:
    """The phrases with most hits in a kind, with hits per million tokens (ties in alphabetical order)."""
    sums = tally.total(kind)
    category_of = {phrase: category for category, phrases in tally.lists.items() for phrase in phrases}
    ranked: Iterable[tuple[str, int]] = sorted(sums.phrases.items(), key=lambda item: (-item[1], item[0]))
    return [
        {
            "phrase": phrase,
            "category": category_of[phrase],
            "hits": hits,
            "per_million": rate_interval(hits, sums.tokens).value if sums.tokens else None,
        }
        for phrase, hits in list(ranked)[:TOP_PHRASES]
    ]
