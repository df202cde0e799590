"""SafeSteer's formulas against the worked numbers of its method sheet, finite differences, and random shapes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.safesteer import full_reverse_kl, partial_reverse_kl
from finetune.safesteer.losses import reduce_positions
from finetune.safesteer.refusal_formulas import (
    CandidateScores,
    ablate,
    first_barred_layer,
    rank_candidates,
    score_of_probability,
    steer,
)
from finetune.safesteer.token_votes import steps_before_end, vote

FORMS = ("partial", "generalised", "bucketed")
TEACHER = torch.tensor([0.7, 0.1, 0.1, 0.1], dtype=torch.float64).log()
SAFE = torch.tensor([0, 1])
ONE = torch.ones(1)


def loss(logits, form, teacher=TEACHER, tokens=SAFE):
    if form == "full":
        return full_reverse_kl(logits[None], teacher[None], ONE)
    return partial_reverse_kl(logits[None], teacher[None], tokens, ONE, form=form)


def descend(form):
    """Where gradient descent on the logits ends: (p, loss)."""
    logits = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        value = loss(logits, form)
        value.backward()
        return value

    for _ in range(10):
        optimizer.step(closure)
    return torch.softmax(logits.detach(), -1), float(loss(logits, form).detach())


def test_uniform_student_has_the_worked_losses_and_an_equal_one_has_none():
    uniform = torch.zeros(4, dtype=torch.float64)
    worked = {"partial": -0.028332, "generalised": 0.271668, "bucketed": 0.429813, "full": 0.429813}
    for form, expected in worked.items():
        assert float(loss(uniform, form)) == pytest.approx(expected, abs=1e-6)
        assert float(loss(TEACHER + 3, form)) == pytest.approx(0, abs=1e-12)


def test_partial_ends_below_the_teacher_and_the_other_forms_at_it():
    p, value = descend("partial")
    assert p[:2].tolist() == pytest.approx([0.257516, 0.036788], abs=1e-6)
    assert value == pytest.approx(-0.294304, abs=1e-6)
    assert float(loss(p.log(), "generalised")) == pytest.approx(0.211393, abs=1e-6)
    for form in ("generalised", "bucketed"):
        p, value = descend(form)
        assert p[:2].tolist() == pytest.approx([0.7, 0.1], abs=1e-5) and value == pytest.approx(0, abs=1e-9)


def test_gradients_are_the_worked_ones_and_those_of_finite_differences():
    worked = {
        "partial": (-0.056304, 0.206341, -0.089825, -0.060211),
        "generalised": (-0.209719, 0.113290, 0.057731, 0.038698),
        "bucketed": (-0.367527, 0.017574, 0.209513, 0.140441),
    }
    logits = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    p = torch.softmax(logits.detach(), -1)
    for form, expected in worked.items():
        (gradient,) = torch.autograd.grad(loss(logits, form), logits)
        assert gradient.tolist() == pytest.approx(expected, abs=1e-6)
        assert torch.autograd.gradcheck(lambda z, form=form: loss(z, form), logits, atol=1e-9)
        # Outside S: one factor times p, so a small step keeps the order there, not the ratios.
        assert float(gradient[2] / p[2]) == pytest.approx(float(gradient[3] / p[3]), abs=1e-12)
        after = (logits - 0.01 * gradient).detach()
        assert (after[2] > after[3]) == (logits[2] > logits[3]) and after[2] - after[3] != logits[2] - logits[3]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 5), st.integers(2, 30), st.data())
def test_bounds_and_identities_hold_for_random_shapes(seed, batch, length, vocabulary, data):
    torch.manual_seed(seed)
    size = data.draw(st.integers(1, vocabulary))
    tokens = torch.randperm(vocabulary)[:size]
    student = (3 * torch.randn(batch, length, vocabulary, dtype=torch.float64)).requires_grad_()
    teacher = 3 * torch.randn(batch, length, vocabulary, dtype=torch.float64)
    mask = torch.rand(batch, length) < 0.7
    values = {f: partial_reverse_kl(student, teacher, tokens, mask, f, "none") for f in FORMS}
    values["full"] = full_reverse_kl(student, teacher, mask, "none")
    slack = 1e-10
    assert (values["generalised"] >= -slack).all()
    assert (values["generalised"] <= values["bucketed"] + slack).all()
    assert (values["bucketed"] <= values["full"] + slack).all()
    assert all((value[~mask] == 0).all() for value in values.values())
    if size == vocabulary:
        for form in FORMS:
            assert torch.allclose(values[form], values["full"], atol=1e-10)
    for form in FORMS:
        total = partial_reverse_kl(student, teacher, tokens, mask, form, "sum")
        (gradient,) = torch.autograd.grad(total, student)
        assert torch.allclose(gradient.sum(-1), torch.zeros(batch, length, dtype=torch.float64), atol=1e-10)
        assert (gradient[~mask] == 0).all()
        # Accumulation: the rows one by one add up to the batch.
        parts = [partial_reverse_kl(student[i], teacher[i], tokens, mask[i], form, "sum") for i in range(batch)]
        assert float(sum(parts).detach()) == pytest.approx(float(total.detach()), abs=1e-9)


def test_an_answer_counts_once_whatever_its_length():
    def pooled(*answers):
        longest = max(map(len, answers))
        values = torch.tensor([[*a, *[math.inf] * (longest - len(a))] for a in answers], dtype=torch.float64)
        mask = torch.tensor([[1] * len(a) + [0] * (longest - len(a)) for a in answers])
        return float(reduce_positions(values, mask, "answers"))

    assert pooled((0.1, 0.3), (0.2,) * 4) == pytest.approx(0.2)
    assert pooled((0.1,), (0.3,) * 3) == pytest.approx(0.2)
    losses, mask = torch.tensor([[0.1, 0.3]]), torch.tensor([[2, 2]])
    assert float(reduce_positions(losses, mask, "answers")) == pytest.approx(0.2), "nonzero is in, not counted twice"
    assert pooled((0.1,), (0.3,) * 3, ()) == pytest.approx(0.2), "a row without an answer is not counted"


def test_equal_models_have_no_generalised_gradient_but_a_partial_one():
    logits = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    p = torch.softmax(logits.detach(), -1)
    (none,) = torch.autograd.grad(loss(logits, "generalised", logits), logits)
    assert float(none.abs().max()) < 1e-12
    (some,) = torch.autograd.grad(loss(logits, "partial", logits), logits)
    inside = torch.tensor([1.0, 1.0, 0, 0], dtype=torch.float64)
    assert torch.allclose(some, p * (inside - p[:2].sum()), atol=1e-12)


def test_half_precision_logits_are_compared_in_float32():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 50).bfloat16(), torch.randn(2, 3, 50).bfloat16()
    mask = torch.ones(2, 3)
    value = partial_reverse_kl(student, teacher, torch.arange(5), mask)
    assert value.dtype == torch.float32
    assert torch.equal(value, partial_reverse_kl(student.float(), teacher.float(), torch.arange(5), mask))


@pytest.mark.parametrize(
    ("student", "teacher", "tokens", "message"),
    [
        ((1, 2, 5), (1, 2, 6), [0], "the student has 5 columns of logits, the teacher 6"),
        ((1, 2, 5), (1, 3, 5), [0], "expected \\[..., positions, vocabulary\\]"),
        ((1, 2, 5), (1, 2, 5), [], "the token set is empty"),
        ((1, 2, 5), (1, 2, 5), [5], "ids must lie in 0 ... 4"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(student, teacher, tokens, message):
    with pytest.raises(ValueError, match=message):
        partial_reverse_kl(
            torch.zeros(student), torch.zeros(teacher), torch.tensor(tokens, dtype=torch.long), torch.ones(1, 2)
        )


def test_refusal_score_ablation_and_addition_have_the_worked_values():
    worked = {0.5: 0, 0.9: 2.197225, 0.05: -2.944439, 1.0: 18.420681, 0.0: -18.420681}
    for probability, expected in worked.items():
        assert float(score_of_probability(torch.tensor(probability, dtype=torch.float64))) == pytest.approx(
            expected, abs=1e-6
        )
    hidden, direction = torch.tensor([3.0, 0, 3]), torch.tensor([1.0, 2, 2])
    once = ablate(hidden, direction)
    assert once.tolist() == pytest.approx([2, -2, 1], abs=1e-6)
    assert ablate(once, direction).tolist() == pytest.approx(once.tolist(), abs=1e-6)
    assert steer(hidden, direction).tolist() == [4, 2, 5]


def test_candidates_are_chosen_by_the_published_rule():
    assert [first_barred_layer(n) for n in (28, 32, 36)] == [22, 25, 28]
    good = CandidateScores(-1, 5, kl=0.05, ablated=-2.0, added=1.0)
    others = [
        CandidateScores(-1, 25, kl=0.01, ablated=-9.0, added=3.0),  # too late in 32 layers
        CandidateScores(-1, 6, kl=0.11, ablated=-9.0, added=3.0),  # harms harmless prompts
        CandidateScores(-1, 7, kl=0.01, ablated=-9.0, added=-0.1),  # makes nothing refused
        CandidateScores(-1, 8, kl=math.nan, ablated=-9.0, added=1.0),
        CandidateScores(-2, 5, kl=0.05, ablated=-2.0, added=1.0),  # equal: the later position first
        CandidateScores(-1, 4, kl=0.1, ablated=-1.0, added=0.0),  # just allowed
    ]
    ranked = rank_candidates([*others, good], 32)
    assert ranked == [good, others[4], others[5]]
    assert rank_candidates(others[:4], 32) == []


def test_records_vote_and_ties_go_to_the_larger_gain_then_the_lower_id():
    gains = torch.full((4, 5), -1.0)
    for record, (first, second) in enumerate([(0, 1), (0, 2), (1, 2), (0, 3)]):
        gains[record, first], gains[record, second] = 2.0, 1.0
    probabilities = torch.full((5,), 0.2)
    chosen = vote(gains, probabilities, probabilities, [], 0.0, 2, 2)
    # Tokens 1 and 2 have two votes each; token 1's mean gain is the larger.
    assert [(token.id, token.votes) for token in chosen] == [(0, 3), (1, 2)]
    gains[:, 2] = gains[:, 1]
    tied = vote(gains, probabilities, probabilities, [0], 0.0, 2, 4)
    assert [token.id for token in tied][:2] == [1, 2] and 0 not in [token.id for token in tied]
    steered = torch.tensor([0.4, 1e-9, 0.2, 0.2, 0.2])
    assert 1 not in [token.id for token in vote(gains, probabilities, steered, [], 1e-8, 2, 5)]
    assert vote(gains, probabilities, torch.zeros(5), [], 1e-8, 2, 5) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 40), st.integers(1, 12), st.integers(1, 12))
def test_the_set_never_holds_a_banned_or_vanishing_token(seed, records, vocabulary, per_record, size):
    torch.manual_seed(seed)
    gains, steered = torch.randn(records, vocabulary), torch.rand(vocabulary)
    banned = torch.randperm(vocabulary)[: vocabulary // 3].tolist()
    chosen = vote(gains, steered, steered, banned, 0.3, per_record, size)
    assert len(chosen) <= size and not {token.id for token in chosen} & set(banned)
    assert all(token.votes > 0 and token.steered_probability >= 0.3 for token in chosen)
    assert chosen == vote(gains, steered, steered, banned, 0.3, per_record, size)
    assert [token.votes for token in chosen] == sorted((token.votes for token in chosen), reverse=True)


def test_steps_after_the_end_of_the_turn_cast_no_vote():
    argmax = torch.tensor([[5, 9, 5], [5, 5, 5], [9, 5, 5]])
    assert steps_before_end(argmax, {9}).tolist() == [[True, False, False], [True] * 3, [False] * 3]
