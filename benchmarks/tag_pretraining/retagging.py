"""The token files of both runs: every pass over the corpus with tags of its own; the control's stand in random documents.

A corpus is trained on several times here. With one set of tags the model learns by heart where they stand; drawn anew for
each pass, as they would be in a corpus that is long enough for one pass, they can be expected from the text alone.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.run_folder import RunFolder
from pipeline.stages.dedup import document_table
from pipeline.stages.score import score_table
from pipeline.stages.tag import tagged_table
from pipeline.tables import read_rows
from pipeline.tagging import insert_tag_ids, remove_tag_ids, tag_positions, tag_slots
from pipeline.tokens.corpus_tokenizer import load_corpus_tokenizer
from pipeline.words import word_spans
from pretrain.atomic_files import write_text
from pretrain.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from rephrasers.keyed_draws import keyed_uniforms

Place = tuple[str, int]  # prefix of the token files, and the document's number in them


def control_order(ids: list[str], seed: int) -> list[int]:
    """Numbers of the documents in the random order in which they get tags: a function of (seed, id)."""
    draws = [float(keyed_uniforms(seed, "control", name, 1)[0]) for name in ids]
    return sorted(range(len(ids)), key=draws.__getitem__)


class Retagging:
    """The documents of the finished pipeline run `corpus`, to be written with other tags at `rate`."""

    def __init__(self, corpus: Path, rate: float, seed: int) -> None:
        run = RunFolder(corpus)
        self._rate, self._seed, self._folder = rate, seed, run.blend().parent
        self.blend: dict[str, Any] = json.loads(run.blend().read_text(encoding="utf-8"))
        self._tag, self._end = self.blend["tag_token_id"], self.blend["end_of_document_id"]
        self._tokenizer_folder = run.tokenizer().resolve()
        self._tokenizer, _ = load_corpus_tokenizer(run.tokenizer())
        self._documents = {place: (name, text) for place, name, text in read_documents(corpus)}

    def tagged_places(self) -> list[Place]:
        """The documents that the corpus tagged."""
        return [place for place in self._documents if place[0].startswith("tagged/")]

    def control_places(self) -> list[Place]:
        """Documents in a random order, until as many tags stand in them (in the first pass) as in the corpus."""
        places, wanted, chosen = list(self._documents), sum(map(self._count, self.tagged_places())), []
        for number in control_order([self._documents[place][0] for place in places], self._seed):
            if wanted <= 0:
                break
            chosen.append(places[number])
            wanted -= self._count(places[number])
        return chosen

    def _count(self, place: Place) -> int:
        return self.tokens(place, 0, True).count(self._tag)

    def tokens(self, place: Place, number_of_pass: int, tagged: bool) -> list[int]:
        """Token ids of a document as `number_of_pass` (from 0) has it; the first one is the corpus's own."""
        name, text = self._documents[place]
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids = [*encoding.ids, self._end]
        if not tagged:
            return ids
        slots = tag_slots(len(word_spans(text)), name, self._rate, self._seed + number_of_pass, 1)
        return insert_tag_ids(ids, tag_positions(text, encoding.offsets, slots), self._tag)

    def write(self, destination: Path, places: Collection[Place], passes: int) -> None:
        """Write `destination`/blend.json and `passes` copies of each shard, with tags in the documents of `places`.

        Documents, their order, the tokenizer and the weights of the blend are those of the corpus.
        """
        tagged = set(places)
        for source in self.blend["sources"]:
            shards: dict[str, int] = {}
            for prefix in source["shards"]:
                for number in range(passes):
                    shards[f"{prefix}-{number}"] = self._write_shard(destination, prefix, number, tagged)
            source |= {
                "shards": list(shards),
                "tokens": sum(shards.values()),
                "documents": source["documents"] * passes,
            }
        self.blend["tokenizer"] = str(self._tokenizer_folder)
        write_text(destination / "blend.json", json.dumps(self.blend, indent=1) + "\n")

    def _write_shard(self, destination: Path, prefix: str, number_of_pass: int, tagged: set[Place]) -> int:
        """One copy of a shard; returns its tokens. What the corpus and our own encoding hold must agree."""
        path = destination / f"{prefix}-{number_of_pass}"
        path.parent.mkdir(parents=True, exist_ok=True)
        corpus, written = IndexedDataset(self._folder / prefix), 0
        with IndexedDatasetBuilder(path, corpus.dtype) as builder:
            for number, document in enumerate(corpus):
                ids = self.tokens((prefix, number), number_of_pass, (prefix, number) in tagged)
                if remove_tag_ids(ids, self._tag) != remove_tag_ids(document.tolist(), self._tag):
                    raise AssertionError(f"{prefix}: document {number} is not the one that was encoded")
                builder.add_document(ids)
                written += len(ids)
        path.with_suffix(".levels").write_bytes((self._folder / prefix).with_suffix(".levels").read_bytes())
        return written


def read_documents(corpus: Path) -> Iterator[tuple[Place, str, str]]:
    """(place, id, text) of all documents of the token files of the run `corpus`, in their order."""
    run = RunFolder(corpus)
    blend = json.loads(run.blend().read_text(encoding="utf-8"))
    for source in blend["sources"]:
        for prefix in source["shards"]:
            for number, row in enumerate(_rows(run, source["name"], int(Path(prefix).name))):
                yield (prefix, number), row["id"], row["text"]


def _rows(run: RunFolder, source: str, shard: int) -> Iterator[dict[str, Any]]:
    if source == "tagged":
        yield from read_rows(tagged_table(run, shard), ["id", "text"])
        return
    scores = read_rows(score_table(run, "final", shard), ["score", "never_train"])
    for row, final in zip(read_rows(document_table(run, shard), ["id", "text"]), scores, strict=True):
        if final["score"] == 0 and final["never_train"] is None:
            yield row


def tag_counts(blend_file: Path) -> tuple[int, int]:
    """(tags, tokens) of all token files of a blend."""
    blend = json.loads(blend_file.read_text(encoding="utf-8"))
    tags = tokens = 0
    for source in blend["sources"]:
        for prefix in source["shards"]:
            for document in IndexedDataset(blend_file.parent / prefix):
                tags += int(np.count_nonzero(document == blend["tag_token_id"]))
                tokens += len(document)
    return tags, tokens
