"""Sampling with the filter: its distribution, its independence of the batch, the filter itself."""

import pytest
import torch

from classifiers.errors import ModelError
from decoding.safe_beam import safe_beam_search
from decoding.safe_sampling import safe_sample
from decoding.token_draws import draw_scores, gumbel_noise, prompt_generator
from tests.decoding.test_safe_beam import _one_thread, generated, padded, tiny_llama  # noqa: F401
from tests.decoding.toy_model import ToyModel, drawn_logits, table_logits

A, B, C, END, TAG = range(5)


def one_step(first, **options):
    """How often each token comes first, of 2,000 samples."""
    model = ToyModel(table_logits({}, first), 6, END)
    found = safe_sample(model, torch.tensor([[5]]), TAG, max_new_tokens=1, num_return_sequences=2000, **options)
    return torch.bincount(found.sequences[:, 1], minlength=5) / 2000


def test_without_a_filter_it_is_ordinary_sampling():
    first = [0.4, 0.3, 0.1, 0.1, 0.1]
    shares = one_step(first, candidates_per_beam=3, discard_fraction=0.0)
    expected = torch.tensor([*first[:4], 0.0]) / 0.9
    assert torch.allclose(shares[:5], expected, atol=0.035) and shares[TAG] == 0
    tempered = one_step(first, candidates_per_beam=3, discard_fraction=0.0, temperature=0.5)
    squares = expected**2 / (expected**2).sum()
    assert torch.allclose(tempered[:5], squares, atol=0.035)
    nucleus = one_step(first, candidates_per_beam=3, discard_fraction=0.0, top_p=0.7)
    assert nucleus[[C, END, TAG]].sum() == 0


def test_the_riskiest_of_the_drawn_are_never_taken():
    rows = {A: [0.2, 0.2, 0.2, 0.1, 0.3], B: [0.3, 0.3, 0.2, 0.15, 0.05], C: [0.3, 0.3, 0.2, 0.1, 0.1]}
    first = [0.5, 0.25, 0.15, 0.0, 0.1]
    model = ToyModel(lambda ids: table_logits(rows, first)(ids), 6, END)
    found = safe_sample(model, torch.tensor([[5]]), TAG, 3, 1, num_return_sequences=500)
    assert set(found.sequences[:, 1].tolist()) == {B, C}  # all three are drawn, A goes
    assert found.risks[:, 0].tolist() == pytest.approx([{B: 0.05, C: 0.1}[t] for t in found.sequences[:, 1].tolist()])


def test_samples_do_not_depend_on_the_batch():
    model = tiny_llama(5)
    prompts = [[4, 5, 6, 7, 8], [9], [10, 11]]
    ids, mask = padded(prompts)
    together = safe_sample(model, ids, 39, 4, 10, mask, num_return_sequences=2, seed=7, look_ahead="rows")
    assert len({tuple(row) for row in together.sequences.tolist()}) > 3
    for row, prompt in enumerate(prompts):
        alone = safe_sample(model, torch.tensor([prompt]), 39, 4, 10, num_return_sequences=2, seed=7)
        for sample in range(2):
            assert generated(alone, len(prompt), sample) == generated(together, 5, 2 * row + sample)
    other = safe_sample(model, ids, 39, 4, 10, mask, seed=8)
    assert generated(other, 5) != generated(together, 5)
    assert not together.sequences[:, 5:].eq(39).any()
    steps = []
    safe_sample(model, ids[:1], 39, 4, 10, seed=8, on_agreed=lambda row, ids: steps.append(ids))
    assert steps[-1] == generated(other, 5) and [len(ids) for ids in steps] == list(range(1, len(steps) + 1))


def test_beams_of_drawn_candidates_are_repeatable_and_differ():
    model = ToyModel(drawn_logits(1, 30, 50), 30, 28)
    ids = torch.tensor([[1, 2]])
    runs = [safe_beam_search(model, ids, 29, 2, 5, 6, candidates="sampled", seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].sequences, runs[1].sequences)
    assert not torch.equal(runs[0].sequences, runs[2].sequences)
    top = safe_beam_search(model, ids, 29, 2, 5, 6)
    assert not torch.equal(top.sequences, runs[0].sequences)
    assert bool((runs[0].log_probs <= 0).all())


def test_draws():
    first, again, other = (gumbel_noise(prompt_generator(3, ids), 1, 5) for ids in ([1, 2], [1, 2], [1, 3]))
    assert (first == again).all() and (first != other).any()
    scores = draw_scores(torch.tensor([[0.5, 0.3, 0.2]]).log(), first[:, :3] * 0, 1.0, 0.6)
    assert scores.isfinite().tolist() == [[True, True, False]]


def test_nothing_to_draw_is_an_error():
    from transformers import LogitsProcessorList

    model = ToyModel(drawn_logits(0, 4, 3), 4, 2)
    processors = LogitsProcessorList([lambda ids, scores: torch.full_like(scores, float("-inf"))])
    with pytest.raises(ModelError, match="rules out every token"):
        safe_sample(model, torch.tensor([[1]]), 3, 2, 3, logits_processor=processors)
