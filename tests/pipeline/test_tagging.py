"""The tag: golden vectors and identities of the safety-pretraining sheet (T1-T6, T8), and properties over any text."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tagging import (
    HARMFULNESS_TAG,
    insert_tag_ids,
    insert_tags,
    remove_tag_ids,
    remove_tags,
    tag_positions,
    tag_slots,
)
from pipeline.words import word_spans

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300).filter(lambda t: HARMFULNESS_TAG not in t)


def test_golden_slots():
    assert tag_slots(200, "doc-0", 0.03, 0) == [17, 41, 90, 93, 161]
    assert tag_slots(200, "doc-0", 0.05, 0) == [17, 41, 90, 93, 154, 161, 177, 195]
    assert tag_slots(200, "doc-0", 0.10, 0) == [
        5, 7, 17, 18, 41, 60, 67, 74, 90, 93, 121, 142, 154, 161, 177, 193, 195, 198,
    ]  # fmt: skip
    assert tag_slots(200, "doc-1", 0.05, 0) == [16, 25, 50, 112, 160, 167]


def test_number_of_tags_is_binomial():
    assert len(tag_slots(10_001, "doc-0", 0.05, 0)) == 517
    for rate, low, high in ((0.03, 245, 358), (0.05, 430, 573), (0.10, 903, 1100)):
        inside = [low <= len(tag_slots(10_001, f"doc-{i}", rate, 0)) <= high for i in range(300)]
        assert np.mean(inside) > 0.98


def test_rate_zero_and_one():
    assert tag_slots(50, "a", 0.0, 0, min_tags=1) == []
    assert tag_slots(50, "a", 1.0, 0) == list(range(2, 51))


def test_short_texts_have_no_tag_as_often_as_the_binomial_says():
    none = np.mean([not tag_slots(50, f"doc-{i}", 0.05, 0) for i in range(4000)])
    assert abs(none - 0.95**49) < 0.015  # 0.081


def test_min_tags_gives_the_smallest_draw():
    untagged = next(f"doc-{i}" for i in range(100) if not tag_slots(20, f"doc-{i}", 0.05, 0))
    (slot,) = tag_slots(20, untagged, 0.05, 0, min_tags=1)
    assert slot in tag_slots(20, untagged, 0.5, 0)
    assert all(slot in tag_slots(20, untagged, rate, 0) for rate in (0.2, 0.3, 0.4) if tag_slots(20, untagged, rate, 0))
    assert tag_slots(1, untagged, 0.05, 0, min_tags=1) == []


def test_rate_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match="rate must be in"):
        tag_slots(5, "a", 1.5, 0)


def test_rendering_stands_in_front_of_the_white_space():
    text = "one two  three"
    assert insert_tags(text, "x", 1.0, 0) == f"one{HARMFULNESS_TAG} two{HARMFULNESS_TAG}  three"


def test_tagged_text_is_not_tagged_again():
    with pytest.raises(ValueError, match="already"):
        insert_tags(f"one two {HARMFULNESS_TAG} three", "x", 0.5, 0)


def test_words_of_scripts_without_spaces():
    words = [text[a:b] for text in ("我们走。今天 ok", "สวัสดี ครับ", "カタカナと漢字") for a, b in word_spans(text)]
    assert words == ["我", "们", "走。", "今", "天", "ok", "สวัสดี", "ครับ", "カタカナと", "漢", "字"]


@given(TEXTS, st.floats(0, 1), st.integers(0, 3))
def test_removing_tags_restores_the_text(text, rate, seed):
    tagged = insert_tags(text, "doc", rate, seed)
    assert remove_tags(tagged) == text
    assert insert_tags(remove_tags(tagged), "doc", rate, seed) == tagged


@given(TEXTS)
def test_spans_hold_all_that_is_not_white_space(text):
    outside = list(text)
    for start, end in word_spans(text):
        assert start < end
        outside[start:end] = [" "] * (end - start)
    assert not "".join(outside).strip()


@given(TEXTS, st.floats(0, 1))
@settings(max_examples=200)
def test_removing_tag_ids_restores_the_ids(text, rate):
    # tokens of one to three characters, some of them across word boundaries
    cuts = sorted({0, len(text), *(i for i in range(0, len(text), 3)), *(i for i in range(0, len(text), 7))})
    offsets = list(itertools.pairwise(cuts))
    ids = [hash(text[a:b]) % 1000 for a, b in offsets]
    slots = tag_slots(len(word_spans(text)), "doc", rate, 0)
    positions = tag_positions(text, offsets, slots)
    tagged = insert_tag_ids(ids, positions, 1000)
    assert remove_tag_ids(tagged, 1000) == ids
    assert all(0 < p < len(ids) for p in positions)
    assert len(tagged) - len(ids) == len(positions) <= len(slots)
    assert all(not (a == b == 1000) for a, b in itertools.pairwise(tagged))
