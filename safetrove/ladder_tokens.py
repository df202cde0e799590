"""The ladder's tokens: the corpus's own shards where they are, what is missing beside them, and a blend file a rung.

OUTPUT/tokens/unsafe/     the tagged originals without their tags: the raw rung's unsafe text
OUTPUT/tokens/tagged/     further copies of the tagged originals, each with tags of its own, one for each pass that is made
OUTPUT/tokens/<kind>/     texts of one's own
OUTPUT/tokens/sources.json   what there is, and how each rung uses it; written last
OUTPUT/rungs/<rung>/blend.json
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from classifiers.errors import DataError, RecipeError
from evaluation.ladder.rungs import RUNG_OF, rung_sources, source_weights
from evaluation.ladder.table import SourceUse
from pipeline.atomic_files import write_json
from pipeline.run import load_frozen_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.tag import tagged_table
from pipeline.stages.tokenise import UNKNOWN_LEVEL
from pipeline.tables import read_rows
from pipeline.tagging import insert_tag_ids, remove_tag_ids, tag_positions, tag_slots
from pipeline.tokens.corpus_tokenizer import load_corpus_tokenizer
from pipeline.words import word_spans
from pretrain.blend_file import Blend, load_blend
from pretrain.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from pretrain.levels import levels_path
from safetrove.ladder_recipe import SYNTHETIC, LadderRecipe
from safetrove.own_texts import OwnTexts, read_own

_MISSING = {
    "safe": "the corpus has no text of score 0",
    "tagged": "the corpus has no unsafe originals",
    "unsafe": "the corpus has no unsafe originals",
    **{
        kind: f"the corpus has no verified text of kind {kind}, and the recipe gives none: set texts.{kind}, or leave the rung "
        f"out of `rungs`"
        for kind in SYNTHETIC
    },
}


@dataclass(frozen=True)
class TokenSource:
    """`shards`: prefixes of token files, absolute. `tokens`, `documents`: of all of them. `note`: where the texts are from."""

    shards: tuple[str, ...]
    tokens: int
    documents: int
    note: str


def sources_file(output: Path) -> Path:
    """There once all tokens and blend files are."""
    return output / "tokens" / "sources.json"


def write_tokens(recipe: LadderRecipe, output: Path) -> dict[str, list[SourceUse]]:
    """Writes what is missing of the ladder's tokens and the blend file of every trained rung; how each rung uses its sources.

    Raises DataError for a source that a rung needs and that is empty, RecipeError for shares that
    leave nothing over.
    """
    done = sources_file(output)
    if done.is_file():
        read = json.loads(done.read_text(encoding="utf-8"))
        return {rung: [SourceUse(**use) for use in uses] for rung, uses in read.items()}
    corpus = _Corpus(recipe.corpus)
    sources = _sources(recipe, corpus, output)
    pretraining = recipe.pretraining()
    budget = pretraining.train_iters * pretraining.global_batch_size * pretraining.seq_length
    rungs = [name for name in recipe.rungs if RUNG_OF[name].decodes is None]
    weights = {name: _weights(name, recipe, sources) for name in rungs}
    used = {
        rung: [
            SourceUse(name, found.tokens, found.documents, share, share * budget / found.tokens, found.note)
            for name, share in weights[rung].items()
            for found in [sources[name]]
        ]
        for rung in rungs
    }
    passes = [math.ceil(use.epochs) for uses in used.values() for use in uses if use.name == "tagged"]
    if passes and max(passes) > 1:
        sources["tagged"] = corpus.retagged(output / "tokens" / "tagged", max(passes))
    for rung in rungs:
        _write_blend(output / "rungs" / rung / "blend.json", corpus.blend, corpus.tokenizer, sources, weights[rung])
    write_json(done, {rung: [asdict(use) for use in uses] for rung, uses in used.items()})
    return used


class _Corpus:
    """A finished run with its tokens."""

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder.resolve())
        self.recipe = load_frozen_recipe(self.run)
        self.blend = load_blend(self.run.blend())
        self.tokenizer = self.run.tokenizer()
        self._tokens = self.run.blend().parent

    def source(self, name: str) -> TokenSource:
        """A source of the blend file; without shards where it has none of that name."""
        for source in self.blend.sources:
            if source.name == name:
                shards = tuple(str(self._tokens / shard) for shard in source.shards)
                return TokenSource(shards, source.tokens, source.documents, "the corpus's")
        return TokenSource((), 0, 0, "")

    def untagged(self, folder: Path) -> TokenSource:
        """The tagged originals without tags, ids as an untagged corpus would have them; their levels beside them."""
        written = []
        for shard in self.source("tagged").shards:
            prefix = folder / Path(shard).name
            documents = (remove_tag_ids(ids.tolist(), self.blend.tag_token_id) for ids in IndexedDataset(shard))
            written.append(_write_shard(prefix, self.blend.dtype, documents, _levels(shard)))
        return _joined(
            written, f"the corpus's originals of score {self.recipe.tag.minimum_score} and more, tags taken out"
        )

    def retagged(self, folder: Path, passes: int) -> TokenSource:
        """`passes` copies of the tagged originals: the corpus's own, then copies whose tags are drawn by the next seeds.

        With one set of tags a model that reads them several times learns by heart where they stand.
        """
        written = [self.source("tagged")]
        for shard in self.source("tagged").shards:
            number = int(Path(shard).name)
            rows = list(read_rows(tagged_table(self.run, number), ["id", "text"]))
            for turn in range(1, passes):
                documents = [self._tagged(row["id"], row["text"], turn) for row in rows]
                for ours, theirs in zip(documents, IndexedDataset(shard), strict=True):
                    if self._plain(ours) != self._plain(theirs.tolist()):
                        raise DataError(
                            f"{shard}: its tokens are not those of {tagged_table(self.run, number)}; tokenise again"
                        )
                written.append(
                    _write_shard(folder / f"{number:05d}-{turn}", self.blend.dtype, documents, _levels(shard))
                )
        return _joined(written, written[0].note)

    def _plain(self, ids: Sequence[int]) -> list[int]:
        return remove_tag_ids(ids, self.blend.tag_token_id)

    def _tagged(self, document_id: str, text: str, turn: int) -> list[int]:
        tokenizer, _ = load_corpus_tokenizer(self.tokenizer)
        encoding, tag = tokenizer.encode(text, add_special_tokens=False), self.recipe.tag
        slots = tag_slots(len(word_spans(text)), document_id, tag.rate, self.recipe.seed + turn, tag.min_tags)
        ids = [*encoding.ids, self.blend.end_of_document_id]
        return insert_tag_ids(ids, tag_positions(text, encoding.offsets, slots), self.blend.tag_token_id)

    def encoded(self, folder: Path, files: Sequence[OwnTexts]) -> TokenSource:
        """Texts of one's own as one shard; the tag's spelling in a text gives ordinary pieces."""
        tokenizer, _ = load_corpus_tokenizer(self.tokenizer)
        rows = read_own(files)
        encodings = tokenizer.encode_batch([row.as_text() for row in rows], add_special_tokens=False)
        documents = [[*encoding.ids, self.blend.end_of_document_id] for encoding in encodings]
        levels = bytes(UNKNOWN_LEVEL if row.level is None else row.level for row in rows)
        names = ", ".join(dict.fromkeys(file.path.name for file in files))
        return replace(_write_shard(folder / "00000", self.blend.dtype, documents, levels), note=f"own texts ({names})")


def _sources(recipe: LadderRecipe, corpus: _Corpus, output: Path) -> dict[str, TokenSource]:
    """All sources that the recipe's rungs read, none of them empty."""
    wanted = [name for rung in recipe.rungs if not RUNG_OF[rung].decodes for name in rung_sources(rung, recipe.rungs)]
    found = {}
    for name in dict.fromkeys(wanted):
        if name == "unsafe":
            source = corpus.untagged(output / "tokens" / "unsafe")
        else:
            source = corpus.source(name)
            if files := recipe.texts.get(name):
                own = corpus.encoded(output / "tokens" / name, files)
                notes = [f"{s.documents} {s.note}" for s in (source, own) if s.documents]
                source = _joined([source, own], " and ".join(notes))
        if not source.tokens:
            raise DataError(f"corpus {recipe.corpus}: the source {name} is empty: {_MISSING[name]}")
        found[name] = source
    return found


def _weights(rung: str, recipe: LadderRecipe, sources: Mapping[str, TokenSource]) -> dict[str, float]:
    names = rung_sources(rung, recipe.rungs)
    try:
        return source_weights(names, {n: sources[n].tokens for n in names}, recipe.shares)
    except ValueError as error:
        raise RecipeError(f"rung {rung}: {error}; lower `shares`") from error


def _write_blend(
    path: Path, blend: Blend, tokenizer: Path, sources: Mapping[str, TokenSource], weights: Mapping[str, float]
) -> None:
    """Paths in it are relative to it, so that corpus and ladder can be moved together."""
    folder = path.resolve().parent
    value: dict[str, Any] = blend.model_dump(mode="json") | {
        "tokenizer": os.path.relpath(tokenizer, folder),
        "sources": [
            {
                "name": name,
                "weight": weight,
                "tokens": sources[name].tokens,
                "documents": sources[name].documents,
                "shards": [os.path.relpath(shard, folder) for shard in sources[name].shards],
            }
            for name, weight in weights.items()
        ],
    }
    write_json(path, value)


def _write_shard(prefix: Path, dtype: str, documents: Any, levels: bytes | None) -> TokenSource:
    prefix = prefix.resolve()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tokens = count = 0
    with IndexedDatasetBuilder(prefix, dtype) as builder:
        for ids in documents:
            builder.add_document(ids)
            tokens, count = tokens + len(ids), count + 1
    if levels is not None:
        levels_path(prefix).write_bytes(levels)
    return TokenSource((str(prefix),), tokens, count, "")


def _levels(shard: str) -> bytes | None:
    path = levels_path(shard)
    return path.read_bytes() if path.is_file() else None


def _joined(parts: Sequence[TokenSource], note: str) -> TokenSource:
    shards = tuple(shard for part in parts for shard in part.shards)
    return TokenSource(shards, sum(part.tokens for part in parts), sum(part.documents for part in parts), note)
