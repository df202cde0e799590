"""Staged blends, loss masks, and counts by source and level."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.blend import blend_index, samples_per_source
from pretrain.blend_file import load_blend
from pretrain.blended_data import BlendedData
from pretrain.checkpoint import load_state
from pretrain.data_settings import DataStage, LossMaskSettings
from pretrain.errors import PretrainDataError
from pretrain.indexed_dataset import IndexedDataset, IndexedDatasetBuilder
from pretrain.levels import levels_path
from pretrain.loop import pretrain
from pretrain.loss_mask import loss_mask
from pretrain.stages import stage_samples, staged_blend

WEIGHTS = st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda weights: max(weights) > 0.01)


def stage(tokens, **weights):
    return DataStage(tokens=tokens, weights=weights)


@settings(max_examples=50, deadline=None)
@given(weights=st.lists(WEIGHTS, min_size=1, max_size=4), counts=st.lists(st.integers(0, 150), min_size=4, max_size=4))
def test_each_source_goes_on_where_the_stage_before_left_it(weights, counts):
    counts = counts[: len(weights)]
    blend = staged_blend(weights, counts)
    for source in range(3):
        numbers = blend.numbers[blend.sources == source]
        assert numbers.tolist() == list(range(len(numbers)))
        assert len(numbers) <= blend.wanted[source]
    at = 0
    for shares, count in zip(weights, counts, strict=True):
        read = [source for source in range(3) if shares[source]]
        alone, _ = blend_index([shares[source] for source in read], count) if count else (np.zeros(0, int), None)
        assert blend.sources[at : at + count].tolist() == [read[source] for source in alone]
        at += count


def test_one_stage_is_megatrons_blend():
    blend = staged_blend([[0.7, 0.3]], [90])
    sources, numbers = blend_index([0.7, 0.3], 90)
    assert (blend.sources == sources).all()
    assert (blend.numbers == numbers).all()
    assert blend.wanted == samples_per_source([0.7, 0.3], 90)


def test_stage_samples():
    stages = [stage(100, a=1), stage(64, a=1), stage(None, a=1)]
    assert stage_samples(stages, 16, 30) == [6, 4, 20]
    assert stage_samples(stages, 16, 8) == [6, 2, 0]
    with pytest.raises(PretrainDataError, match="reads 11 samples of 16 tokens, its stages hold 10"):
        stage_samples(stages[:2], 16, 11)
    with pytest.raises(PretrainDataError, match="stage 1 has 100 tokens, less than one sample of 128"):
        stage_samples(stages, 128, 11)


def test_a_longer_run_begins_with_the_shorter_one(blend_file):
    # One epoch of each source holds both runs.
    stages = [stage(16 * 20, safe=1), stage(None, safe=1, moral=1)]
    short, long = (BlendedData(blend_file, 16, samples, 3, stages) for samples in (40, 60))
    assert all((short.tokens(i) == long.tokens(i)).all() for i in range(40))
    assert short.counts(range(20))[0] == {"safe": 320, "moral": 0}
    assert short.counts(range(20, 40))[0] == {"safe": 160, "moral": 160}
    assert short.fingerprint == long.fingerprint
    other = BlendedData(blend_file, 16, 40, 3, [stage(16 * 19, safe=1), stages[1]])
    assert {key for key in other.fingerprint if other.fingerprint[key] != short.fingerprint[key]} == {"stage 1"}


def test_no_token_comes_twice_within_an_epoch(tmp_path):
    sources, first = [], 1
    for name, documents in (("safe", 150), ("moral", 60)):
        with IndexedDatasetBuilder(tmp_path / name, "uint16") as builder:
            for start in range(first, first + 20 * documents, 20):
                builder.add_document(range(start, start + 20))
        first += 20 * documents
        sources.append({"name": name, "weight": 1, "tokens": 20 * documents, "documents": documents, "shards": [name]})
    numbers = {"vocabulary_size": first, "tag_token": "<tag>", "tag_token_id": 0, "end_of_document_id": 0}
    blend = {"tokenizer": "none", "dtype": "uint16", "sources": sources, **numbers}
    (tmp_path / "blend.json").write_text(json.dumps(blend))
    stages = [stage(16 * 60, safe=1, moral=1), stage(None, safe=3, moral=1)]
    data = BlendedData(tmp_path / "blend.json", 16, 200, 3, stages)
    read = np.concatenate([data.tokens(i)[:-1] for i in range(200)])
    assert len(set(read.tolist())) == 200 * 16


def test_a_source_that_no_stage_reads_is_not_opened(blend_file):
    (blend_file.parent / "moral" / "00000.bin").unlink()
    data = BlendedData(blend_file, 16, 20, 3, [stage(None, safe=1, moral=0)])
    assert data.counts(range(20))[0] == {"safe": 320, "moral": 0}


def test_loss_mask_by_hand():
    tokens = np.array([5, 9, 7, 0, 9, 9, 4])  # 9 the tag, 0 the end of a document

    def mask(**keys):
        return loss_mask(tokens, LossMaskSettings(**keys), tag_token_id=9, end_of_document_id=0).tolist()

    assert mask() == [1, 1, 1, 1, 1, 1]
    assert mask(tag=True) == [0, 1, 1, 0, 0, 1]
    assert mask(end_of_document=True) == [1, 1, 0, 1, 1, 1]
    assert mask(after_end_of_document=True) == [1, 1, 1, 0, 1, 1]
    assert mask(tag=True, end_of_document=True) == [0, 1, 0, 0, 0, 1]


def test_masks_of_the_data(blend_file):
    data = BlendedData(blend_file, 16, 20, 3, mask=LossMaskSettings(end_of_document=True))
    plain = BlendedData(blend_file, 16, 20, 3)
    for sample in range(20):
        mask = data.loss_mask(sample)
        assert (mask.dtype, mask.shape) == (np.float32, (16,))
        assert ((mask == 0) == (data.tokens(sample)[1:] == 0)).all()
        assert plain.loss_mask(sample).tolist() == [1.0] * 16
    assert data.fingerprint["loss_mask"] == "end_of_document"
    assert plain.fingerprint["loss_mask"] == "none"


def write_levels(blend_file, keep=("safe/00000", "safe/00001", "moral/00000")):
    """Level of a document: its number modulo 6."""
    for prefix in keep:
        documents = len(IndexedDataset(blend_file.parent / prefix))
        levels_path(blend_file.parent / prefix).write_bytes(bytes(i % 6 for i in range(documents)))


def levels_token_by_token(blend_file, samples, seed):
    """By walking over documents: each token stands for its document's level, laid out by the same indices."""
    data = BlendedData(blend_file, 16, samples, seed)
    counts = {}
    for sample in range(5, samples):
        source = data._sources[data._source_of[sample]]
        start = 16 * int(source._indices.shuffle[data._number_of[sample]])
        lengths = [source._lengths[d] for d in source._indices.documents]
        stream = np.repeat([source._levels[d] for d in source._indices.documents], lengths)
        for level in stream[start : start + 16]:
            name = "unknown" if level == 255 else str(level)
            counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize("keep", [("safe/00000", "safe/00001", "moral/00000"), ("safe/00001", "moral/00000")])
def test_counts_by_level(blend_file, keep):
    write_levels(blend_file, keep)
    _, levels = BlendedData(blend_file, 16, 300, 3).counts(range(5, 300))
    assert levels == levels_token_by_token(blend_file, 300, 3)
    assert ("unknown" in levels) == ("safe/00000" not in keep)
    assert sum(levels.values()) == 295 * 16


def test_without_levels_all_are_unknown(blend_file):
    assert BlendedData(blend_file, 16, 20, 3).counts(range(20))[1] == {"unknown": 320}
    assert BlendedData(blend_file, 16, 20, 3).counts(range(4, 4)) == ({"safe": 0, "moral": 0}, {})


def test_levels_of_other_documents_are_refused(blend_file):
    path = levels_path(blend_file.parent / "moral/00000")
    path.write_bytes(b"\x00\x01")
    with pytest.raises(PretrainDataError, match="levels of 2 documents, the index beside it has 40"):
        BlendedData(blend_file, 16, 20, 3)


def test_a_staged_run_trains_and_resumes(recipe, tmp_path):
    staged = recipe.model_copy(update={"stages": [stage(16 * 18, safe=1), stage(None, moral=1)]})
    whole = staged.model_copy(update={"save": tmp_path / "whole"})
    pretrain(whole, lambda line: None)
    for _ in range(2):
        pretrain(staged.model_copy(update={"exit_interval": 5}), lambda line: None)
    ours, theirs = (dataclasses.asdict(load_state(save, 8)) for save in (staged.save, whole.save))
    assert ours == theirs
    assert ours["tokens_by_source"] == {"safe": 16 * 18, "moral": 16 * 14}
    assert load_blend(recipe.data).sources[0].name == "safe"
