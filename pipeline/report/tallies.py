"""What a shard says to the card: additive sums per slice of the corpus, so that shards merge by addition (test C2).

A slice is (kind, source, score). For originals the score is the document's own; for a synthetic text it is the score
of the document it was written from, so that the two can be compared level by level.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from classifiers.errors import DataError
from pipeline.report.phrase_counts import PhraseCounter
from pipeline.report.phrase_lists import load_phrase_lists, phrase_lists_sha256

KINDS = ("original", "tagged", "rephrased", "refusal", "moral")
LEVELS = (0, 1, 2, 3, 4, 5)
ALL = "all"
"""Pseudo-category: a document's hits over all categories (its squares cannot be added up from the categories')."""

_FORMAT = "safetrove-card-counts"
_VERSION = 1

Slice = tuple[str, str, int | None]


@dataclass
class ClusterSums:
    """Of one category in one slice: the sums over documents that a rate and its interval need (exact integers)."""

    hits: int = 0
    hits_squared: int = 0
    hits_tokens: int = 0

    def add(self, other: "ClusterSums") -> None:
        self.hits += other.hits
        self.hits_squared += other.hits_squared
        self.hits_tokens += other.hits_tokens


@dataclass
class SliceSums:
    """Of one slice: documents, tokens, sum of tokens^2, the categories that were hit, and the phrases that were hit."""

    documents: int = 0
    tokens: int = 0
    tokens_squared: int = 0
    categories: dict[str, ClusterSums] = field(default_factory=dict)
    phrases: Counter[str] = field(default_factory=Counter)

    def category(self, name: str) -> ClusterSums:
        """The sums of one category (`ALL` for any); zeros where it was never hit."""
        return self.categories.get(name, ClusterSums())

    def add(self, other: "SliceSums") -> None:
        self.documents += other.documents
        self.tokens += other.tokens
        self.tokens_squared += other.tokens_squared
        for name, sums in other.categories.items():
            self.categories.setdefault(name, ClusterSums()).add(sums)
        self.phrases.update(other.phrases)


class Tally:
    """The sums of any set of documents.

    Args: `counter`, which phrases are counted (default: the card's 14 lists). It is built at the first text, so that
    merging and reading need no automaton.
    """

    def __init__(self, lists: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.lists = load_phrase_lists() if lists is None else lists
        self.lists_sha256 = phrase_lists_sha256(dict(self.lists))
        self.slices: dict[Slice, SliceSums] = {}
        self.languages: dict[str, Counter[str]] = {}
        self._counter: PhraseCounter | None = None

    def add(
        self, kind: str, source: str, score: int | None, n_tokens: int, text: str, language: str | None = None
    ) -> None:
        """Counts one document.

        Args: `kind`, one of KINDS; `source`, the name of the source it came from; `score`, 0-5, or None where no
        classifier was asked; `n_tokens`, of the corpus tokenizer, at least 0; `language`, any code, for originals.
        Raises ValueError on any other kind, score or count.
        """
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} is none of {', '.join(KINDS)}")
        if score is not None and score not in LEVELS:
            raise ValueError(f"score {score!r} is neither None nor 0 to 5")
        if n_tokens < 0:
            raise ValueError(f"n_tokens is {n_tokens}; a document has at least 0")
        if self._counter is None:
            self._counter = PhraseCounter(self.lists)
        sums = self.slices.setdefault((kind, source, None if score is None else int(score)), SliceSums())
        sums.documents += 1
        sums.tokens += int(n_tokens)
        sums.tokens_squared += int(n_tokens) ** 2
        if language is not None:
            self.languages.setdefault(kind, Counter())[language] += 1
        found = self._counter.hits(text)
        if not found:
            return
        sums.phrases.update(self._counter.phrases[phrase] for phrase in found)
        by_category = Counter(self._counter.categories[self._counter.category_of[phrase]] for phrase in found)
        by_category[ALL] = len(found)
        for name, hits in by_category.items():
            one = ClusterSums(hits=hits, hits_squared=hits**2, hits_tokens=hits * int(n_tokens))
            sums.categories.setdefault(name, ClusterSums()).add(one)

    def merge(self, other: "Tally") -> None:
        """Adds another tally. Raises DataError when it was counted with other phrases."""
        if other.lists_sha256 != self.lists_sha256:
            raise DataError(
                "card counts made with different phrase lists cannot be added; rerun the card-counts stage on all shards"
            )
        for key, sums in other.slices.items():
            self.slices.setdefault(key, SliceSums()).add(sums)
        for kind, languages in other.languages.items():
            self.languages.setdefault(kind, Counter()).update(languages)

    def total(
        self,
        kind: str,
        sources: Iterable[str] | None = None,
        scores: Iterable[int | None] | None = None,
    ) -> SliceSums:
        """The sums of a kind over some (default: all) sources and scores."""
        sources = None if sources is None else set(sources)
        scores = None if scores is None else set(scores)
        result = SliceSums()
        for (slice_kind, source, score), sums in self.slices.items():
            if slice_kind != kind or (sources is not None and source not in sources):
                continue
            if scores is None or score in scores:
                result.add(sums)
        return result

    def score_histogram(self, kind: str = "original", source: str | None = None) -> dict[int | None, int]:
        """Documents at each score 0-5, and under None those without a score; sums to the documents (test C4)."""
        histogram: dict[int | None, int] = dict.fromkeys((*LEVELS, None), 0)
        for (slice_kind, slice_source, score), sums in self.slices.items():
            if slice_kind == kind and source in (None, slice_source):
                histogram[score] += sums.documents
        return histogram

    def sources(self) -> list[str]:
        """Names of all sources, sorted."""
        return sorted({source for _, source, _ in self.slices})

    def to_json(self) -> bytes:
        """Deterministic bytes: equal sums give equal bytes, whatever the order in which they were added."""
        slices = []
        for (kind, source, score), sums in sorted(self.slices.items(), key=_slice_order):
            categories = {
                name: [sums.category(name).hits, sums.category(name).hits_squared, sums.category(name).hits_tokens]
                for name in sums.categories
            }
            slices.append(
                {
                    "kind": kind,
                    "source": source,
                    "score": score,
                    "documents": sums.documents,
                    "tokens": sums.tokens,
                    "tokens_squared": sums.tokens_squared,
                    "categories": categories,
                    "phrases": dict(sums.phrases),
                }
            )
        data = {
            "format": _FORMAT,
            "version": _VERSION,
            "phrase_lists_sha256": self.lists_sha256,
            "languages": {kind: dict(languages) for kind, languages in self.languages.items()},
            "slices": slices,
        }
        return (json.dumps(data, ensure_ascii=False, sort_keys=True, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str, lists: Mapping[str, tuple[str, ...]] | None = None) -> "Tally":
        """Reads `to_json`'s bytes; `where` names the file in errors. Raises DataError on anything else."""
        tally = cls(lists)
        try:
            data = json.loads(content)
            if data["format"] != _FORMAT or data["version"] != _VERSION:
                raise DataError(f"{where}: not card counts of version {_VERSION}; rerun the card-counts stage")
            tally.lists_sha256 = data["phrase_lists_sha256"]
            tally.languages = {kind: Counter(languages) for kind, languages in data["languages"].items()}
            for row in data["slices"]:
                tally.slices[(row["kind"], row["source"], row["score"])] = _slice_from_json(row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: damaged card counts ({error}); rerun the card-counts stage") from error
        return tally


def _slice_order(item: tuple[Slice, SliceSums]) -> tuple[int, str, int]:
    kind, source, score = item[0]
    return KINDS.index(kind), source, -1 if score is None else score


def _slice_from_json(row: dict[str, Any]) -> SliceSums:
    categories = {name: ClusterSums(*values) for name, values in row["categories"].items()}
    return SliceSums(row["documents"], row["tokens"], row["tokens_squared"], categories, Counter(row["phrases"]))
