"""The control's token files: the same documents, as many tags, but in documents drawn at random."""

import json
from collections.abc import Iterator
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


def write_control(corpus: Path, destination: Path, rate: float, seed: int) -> tuple[int, int]:
    """Write `destination`/blend.json and its token files; returns (tags, documents that hold one).

    Documents, their order, the tokenizer, the weights of the blend and the number of tags are those of `corpus`. Documents
    are visited in a random order and tagged by the stage's own rule until as many tags stand as there.
    """
    run = RunFolder(corpus)
    blend = json.loads(run.blend().read_text(encoding="utf-8"))
    tag, end = blend["tag_token_id"], blend["end_of_document_id"]
    sets = {
        prefix: IndexedDataset(run.blend().parent / prefix)
        for source in blend["sources"]
        for prefix in source["shards"]
    }
    wanted = sum(int((document == tag).sum()) for tokens in sets.values() for document in tokens)
    documents = list(read_documents(corpus))
    tokenizer, _ = load_corpus_tokenizer(run.tokenizer())
    tagged: dict[Place, list[int]] = {}
    left = wanted
    for number in control_order([name for _, name, _ in documents], seed):
        place, name, text = documents[number]
        if not left:
            break
        encoding = tokenizer.encode(text, add_special_tokens=False)
        slots = tag_slots(len(word_spans(text)), name, rate, seed, 1)
        positions = tag_positions(text, encoding.offsets, slots)[:left]
        if positions:
            tagged[place] = insert_tag_ids([*encoding.ids, end], positions, tag)
            left -= len(positions)
    for source in blend["sources"]:
        source["tokens"] = sum(_write(destination, prefix, sets[prefix], tag, tagged) for prefix in source["shards"])
        for prefix in source["shards"]:
            levels = (run.blend().parent / prefix).with_suffix(".levels")
            (destination / prefix).with_suffix(".levels").write_bytes(levels.read_bytes())
    blend["tokenizer"] = str(run.tokenizer().resolve())
    write_text(destination / "blend.json", json.dumps(blend, indent=1) + "\n")
    return wanted - left, len(tagged)


def _write(destination: Path, prefix: str, tokens: IndexedDataset, tag: int, tagged: dict[Place, list[int]]) -> int:
    """Copy a shard with its tags replaced; returns its tokens. What the corpus and our own encoding hold must agree."""
    written = 0
    (destination / prefix).parent.mkdir(parents=True, exist_ok=True)
    with IndexedDatasetBuilder(destination / prefix, tokens.dtype) as builder:
        for number, document in enumerate(tokens):
            plain = remove_tag_ids(document.tolist(), tag)
            ids = tagged.get((prefix, number), plain)
            if remove_tag_ids(ids, tag) != plain:
                raise AssertionError(f"{prefix}: document {number} is not the one that was encoded")
            builder.add_document(ids)
            written += len(ids)
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
