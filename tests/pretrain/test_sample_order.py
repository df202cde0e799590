"""Document, sample and shuffle indices, the blend and the sampler: hand-made cases and properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.blend import blend_index, samples_per_source
from pretrain.errors import PretrainDataError
from pretrain.gpt_indices import EpochPlan, build_gpt_indices, plan_epochs
from pretrain.sampler import micro_batches


@pytest.mark.parametrize(
    ("tokens", "wanted", "plan"),
    [
        (101, 10, EpochPlan(1, 10, None)),  # exactly one epoch: 10 samples of 10 and one label more
        (100, 10, EpochPlan(2, 19, 9)),  # one label missing: a second epoch, of which 1 < int(.8 * 9) samples
        (101, 17, EpochPlan(2, 20, 10)),  # 7 of 10 samples of the last epoch: apart
        (101, 18, EpochPlan(2, 20, None)),  # 8 of 10: shuffled together
        (3, 2, EpochPlan(7, 2, None)),  # less than a sample in an epoch
    ],
)
def test_epoch_plan(tokens, wanted, plan):
    assert plan_epochs(tokens, 10, wanted) == plan


def test_no_tokens_is_an_error():
    with pytest.raises(PretrainDataError, match="of 0 tokens"):
        build_gpt_indices(np.zeros(3, np.int32), 8, 4, seed=1)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=25).filter(any),
    sequence_length=st.integers(1, 12),
    wanted=st.integers(1, 60),
)
def test_unshuffled_samples_tile_the_epochs(lengths, sequence_length, wanted):
    lengths = np.array(lengths, np.int32)
    indices = build_gpt_indices(lengths, sequence_length, wanted, seed=5)
    samples = len(indices.shuffle)
    assert samples >= wanted
    assert sorted(indices.shuffle.tolist()) == list(range(samples))
    assert (np.bincount(indices.documents, minlength=len(lengths)) == len(indices.documents) // len(lengths)).all()
    # Walking the document order token by token gives the same start of each sample.
    places = [(p, o) for p, document in enumerate(indices.documents) for o in range(lengths[document])]
    assert [tuple(start) for start in indices.starts[1:]] == places[sequence_length::sequence_length][:samples]


def test_blend_by_hand():
    sources, numbers = blend_index([2, 1, 1], 8)
    # Shortfalls: .5 .25 .25 | -.5 .25 .25 | 0 -.5 .5 | .5 -.25 -.25 | 0 0 0 (first wins) | -.5 .25 .25 | ...
    assert sources.tolist() == [0, 1, 2, 0, 0, 1, 2, 0]
    assert numbers.tolist() == [0, 0, 0, 1, 2, 1, 1, 3]


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=6), samples=st.integers(1, 400))
def test_blend_keeps_the_weights_and_never_runs_dry(weights, samples):
    sources, numbers = blend_index(weights, samples)
    counts = np.bincount(sources, minlength=len(weights))
    assert np.abs(counts - samples * np.array(weights) / sum(weights)).max() <= len(weights)
    assert (counts <= samples_per_source(weights, samples)).all()
    for source in range(len(weights)):
        assert numbers[sources == source].tolist() == list(range(counts[source]))
    shorter, _ = blend_index(weights, samples // 2)
    assert (sources[: samples // 2] == shorter).all()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_order_depends_on_consumed_samples_not_on_ranks(ranks):
    micro = 8 // ranks
    walks = [list(micro_batches(16, 43, micro, rank, ranks)) for rank in range(ranks)]
    read = [number for block in zip(*walks, strict=True) for batch in block for number in batch]
    assert read == list(range(16, 40))
