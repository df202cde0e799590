"""Which texts are chosen to be labelled: by id and score alone, spread over levels and sources, nested in their number."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.annotation import (
    Candidate,
    choose_first,
    choose_refining,
    expected_level,
    head_probabilities,
    keyed_draw,
    margin,
    round_sizes,
    stratified_order,
    text_vectors,
)

pools = st.lists(
    st.tuples(st.sampled_from(["page", "chat", "news"]), st.integers(0, 5), st.floats(0, 1), st.floats(0, 5)),
    min_size=1,
    max_size=40,
).map(lambda rows: [Candidate(f"id-{i}", *row) for i, row in enumerate(rows)])
shares = st.sampled_from([0.0, 0.3, 0.5, 1.0])


@settings(deadline=None)
@given(pools, st.integers(1, 45), shares, st.randoms())
def test_choice_does_not_depend_on_the_order_of_the_pool(pool, number, share, random):
    shuffled = random.sample(pool, len(pool))
    for choose in (choose_first, choose_refining):
        chosen = choose(pool, number, share, 0)
        assert choose(shuffled, number, share, 0) == chosen
        assert len({choice.id for choice in chosen}) == len(chosen) == min(number, len(pool))


@settings(deadline=None)
@given(pools, st.integers(1, 30), shares)
def test_a_larger_number_keeps_what_a_smaller_one_chose(pool, number, share):
    for choose in (choose_first, choose_refining):
        smaller = {choice.id for choice in choose(pool, number, share, 0)}
        assert smaller <= {choice.id for choice in choose(pool, number + 7, share, 0)}


def test_strata_are_even_over_levels_and_over_sources_within_a_level():
    common = [Candidate(f"common-{i}", "page", 0, 0.9) for i in range(500)]
    rare = [
        Candidate(f"rare-{level}-{s}-{i}", s, level, 0.9)
        for level in (3, 4)
        for s in ("page", "chat")
        for i in range(9)
    ]
    chosen = stratified_order([*common, *rare], 0)[:30]
    assert Counter(c.level for c in chosen) == {0: 10, 3: 10, 4: 10}
    assert Counter((c.level, c.source) for c in chosen if c.level) == dict.fromkeys(
        [(level, s) for level in (3, 4) for s in ("page", "chat")], 5
    )


def test_uncertain_ones_have_the_smallest_margins_and_refining_ones_the_largest_disagreement():
    pool = [Candidate(f"id-{i}", "page", 0, margin=i / 10, disagreement=i / 2) for i in range(10)]
    first = choose_first(pool, 4, 0.5, 0)
    assert [(c.id, c.by) for c in first[:2]] == [("id-0", "uncertain"), ("id-1", "uncertain")]
    assert {c.by for c in first[2:]} == {"stratified"}
    refining = choose_refining(pool, 4, 0.5, 0)
    assert [(c.id, c.by) for c in refining[2:]] == [("id-9", "disagreement"), ("id-8", "disagreement")]


def test_seed_moves_the_draw_and_nothing_else_does():
    assert keyed_draw(0, "a") == keyed_draw(0, "a") != keyed_draw(1, "a")
    draws = np.array([keyed_draw(0, str(number)) for number in range(2000)])
    assert draws.min() >= 0 and draws.max() < 1 and draws.mean() == pytest.approx(0.5, abs=0.03)


def test_margin_expected_level_and_round_sizes():
    assert margin((0.1, 0.5, 0.2, 0.2, 0.0, 0.0)) == pytest.approx(0.3)
    assert expected_level(np.array([0.3, 0.1, 0.15, 0.25, 0.15, 0.05])) == pytest.approx(2.0)
    assert round_sizes(10, 3) == [4, 3, 3] and round_sizes(2, 3) == [1, 1, 0]


def test_text_vectors_are_means_of_their_chunks():
    vectors = text_vectors(np.array([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0]]), np.array([0, 0, 2]), 3)
    assert vectors.tolist() == [[0.5, 0.5], [0.0, 0.0], [4.0, 4.0]]


def test_head_on_the_labels_tells_the_levels_apart():
    vectors = np.eye(3)
    found = head_probabilities(np.repeat(vectors, 5, axis=0), [0] * 5 + [3] * 5 + [5] * 5, vectors)
    assert found.argmax(axis=1).tolist() == [0, 3, 5]
    assert found.sum(axis=1) == pytest.approx([1, 1, 1])
