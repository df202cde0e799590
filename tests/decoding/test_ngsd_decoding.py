"""Decoding: against NGSD written down naively, deferred against immediate, batches against single prompts, identities, ends."""

import random
from dataclasses import replace

import pytest
import torch

from decoding.ngsd import (
    AdamGate,
    Deferral,
    EarlyStop,
    EmaGate,
    LeakyGate,
    NgsdSettings,
    Prompt,
    Rating,
    RiskRule,
    generate,
)
from tests.decoding.ngsd_models import WORDS, naive, tiny_model

OPEN, SHUT = LeakyGate(threshold=0.0), LeakyGate(threshold=float("inf"))
IMMEDIATE = NgsdSettings(max_new_tokens=40, strength=0.1, deferral=None, candidates=6)
DEFERRALS = [Deferral(16, 0), Deferral(16, 3), Deferral(5, 1), Deferral(64, 64)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def requests(count, seed):
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, 12))) for _ in range(count)]


def pair(seed, kind="llama", noise=0.4, **options):
    base = tiny_model(seed, kind, **options)
    return base, tiny_model(seed + 1000, kind, like=base, noise=noise, **options)


def ids(side, request):
    return side.tokenizer(side.render(Prompt.ask(request)), add_special_tokens=False)["input_ids"]


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.tokens == b.tokens and a.ended_by == b.ended_by and a.text == b.text
        assert [(s.token, s.base_token, s.fired) for s in a.trace] == [
            (s.token, s.base_token, s.fired) for s in b.trace
        ]
        for name in ("current", "potential"):
            ours, theirs = ([getattr(s, name) for s in answer.trace] for answer in (a, b))
            assert ours == pytest.approx(theirs, abs=1e-9)


def greedy(side, request, new_tokens=40):
    prompt = torch.tensor([ids(side, request)])
    answer = []
    while len(answer) < new_tokens and (not answer or answer[-1] != side.tokenizer.eos_token_id):
        logits = side.model(torch.cat([prompt, torch.tensor([answer], dtype=torch.long)], dim=1)).logits
        answer.append(int(logits[0, -1, : len(side.tokenizer)].argmax()))
    return answer


@pytest.mark.parametrize("gate", [LeakyGate(), EmaGate(threshold=0.3), AdamGate(), LeakyGate(soft_reset=0.0)])
def test_equals_the_naive_method(gate):
    """Both caches, batches and one pass each a token change nothing."""
    base, expert = pair(1)
    asked, changed = requests(3, 1), 0
    for strength in (0.3, 0.9):
        settings = replace(IMMEDIATE, gate=gate, strength=strength)
        for request, answer in zip(asked, generate(base, expert, asked, settings), strict=True):
            with torch.no_grad():
                tokens, rows = naive(
                    base, expert, ids(base, request), ids(expert, request), strength, settings, base.end_ids()
                )
            assert answer.tokens == tokens
            assert [(s.fired, s.base_token) for s in answer.trace] == [row[2:] for row in rows]
            assert [s.potential for s in answer.trace] == pytest.approx([row[1] for row in rows], abs=1e-9)
            changed += sum(s.token != s.base_token for s in answer.trace)
    assert changed > 5


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_deferred_equals_immediate_in_text_and_trace(kind):
    """Over random models and prompts: single and in batches; absolute and rotary positions; sliding windows."""
    compared = changed = rolled_back = ends = spared = 0
    for seed in range(6 if kind == "llama" else 2):
        base, expert = pair(seed, kind, noise=(0.4, 1.5, 0.05)[seed % 3])
        asked = requests(8, seed)
        for strength in (0.1, 0.45):
            settings = replace(IMMEDIATE, max_new_tokens=24, strength=strength)
            expected = generate(base, expert, asked, settings)
            for deferral in DEFERRALS:
                found = generate(base, expert, asked, replace(settings, deferral=deferral))
                same(found, expected)
                work = found[0].work
                spared += expected[0].work.expert_passes - work.expert_passes
                rolled_back += work.rolled_back
                assert deferral.max_undecided or work.rolled_back == 0, "a decided token was taken back"
                compared += len(asked)
            same(generate(base, expert, asked[:1], replace(settings, deferral=DEFERRALS[1])), expected[:1])
            changed += sum(s.token != s.base_token for answer in expected for s in answer.trace)
            ends += sum(answer.ended_by == "end" for answer in expected)
    assert compared >= 120 and changed > 20 and ends > 5 and spared > 0
    assert (rolled_back == 0) == (kind == "mistral"), "sliding windows cannot take tokens back; the others did"


def test_the_expert_is_seldom_asked_where_the_base_is_sure():
    base, expert = pair(3, noise=0.05, sharpness=60.0)
    asked = requests(1, 3)
    settings = replace(IMMEDIATE, max_new_tokens=100, deferral=Deferral(16, 0))
    (answer,) = generate(base, expert, asked, settings)
    work = answer.work
    assert work.base_passes == len(answer.tokens) and work.expert_passes <= 0.5 * len(answer.tokens)
    assert work.expert_tokens == work.base_tokens, "the expert has read every token once"


def test_from_strength_one_half_nothing_is_deferred():
    base, expert = pair(4)
    for answer in generate(base, expert, requests(3, 4), replace(IMMEDIATE, strength=0.5, deferral=Deferral(64, 64))):
        assert answer.work.expert_passes == answer.work.base_passes and answer.work.rolled_back == 0


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral"])
def test_a_batch_equals_one_by_one(kind):
    """Left padding, a gate for each row, rows that end and leave at different steps, prompts in the caller's order."""
    base, expert = pair(7, kind)
    asked = requests(9, 7)
    for deferral in (None, Deferral(8, 2)):
        settings = replace(IMMEDIATE, strength=0.3, deferral=deferral)
        alone = [generate(base, expert, [request], settings)[0] for request in asked]
        same(generate(base, expert, asked, settings), alone)
        same(generate(base, expert, asked, replace(settings, max_rows=4)), alone)
        assert len({len(answer.tokens) for answer in alone}) > 2


def test_every_prompt_has_its_own_strength():
    base, expert = pair(8)
    asked = requests(6, 8)
    ratings = [Rating(0, 0, 0, 0), Rating(5, 5, 5, 5), Rating(9, 9, 9, 9)] * 2
    mixed = generate(
        base, expert, asked, replace(IMMEDIATE, strength=None, deferral=Deferral()), rate=lambda _: ratings
    )
    assert [answer.strength for answer in mixed] == [0.1, 0.5, 0.9] * 2
    assert [answer.risk for answer in mixed] == [0, 5, 9] * 2
    same(
        mixed,
        [
            generate(base, expert, [a], replace(IMMEDIATE, strength=m.strength))[0]
            for a, m in zip(asked, mixed, strict=True)
        ],
    )


def test_identical_base_and_expert_never_fire_and_are_greedy():
    base, _ = pair(9)
    twin, asked = tiny_model(9), requests(4, 9)
    for strength in (0.1, 0.9):
        for request, answer in zip(
            asked, generate(base, twin, asked, replace(IMMEDIATE, strength=strength)), strict=True
        ):
            assert answer.tokens == greedy(base, request)
            assert answer.fire_share() == 0 and max(s.potential for s in answer.trace) < 1e-12


def test_identities_of_strength_and_gate():
    base, expert = pair(10)
    asked = requests(4, 10)
    whole = {"candidates": 10_000}
    for strength, gate, candidates, follows in (
        (0.0, OPEN, {}, base), (0.9, SHUT, {}, base), (0.3, SHUT, {}, base), (1.0, OPEN, whole, expert),
    ):  # fmt: skip
        settings = replace(IMMEDIATE, strength=strength, gate=gate, **candidates)
        for request, answer in zip(asked, generate(base, expert, asked, settings), strict=True):
            assert answer.tokens == greedy(follows, request)
            assert answer.fire_share() == (1.0 if gate is OPEN else 0.0)


def test_the_gate_starts_at_rest_after_an_error_too():
    base, expert = pair(11)
    asked, settings = requests(2, 11), replace(IMMEDIATE, strength=0.9)
    first = generate(base, expert, asked, settings)

    def interrupt(row, step):
        if step.fired:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(base, expert, asked, settings, on_token=interrupt)
    same(generate(base, expert, asked, settings), first)
    assert all(answer.trace[0].potential == answer.trace[0].current for answer in first)


def test_ends_on_either_models_end_token_and_at_the_length():
    base, expert = pair(12)
    asked = requests(8, 12)
    longest = generate(base, expert, asked, IMMEDIATE)
    other = longest[0].tokens[3]
    expert.model.generation_config.eos_token_id = [other, expert.tokenizer.eos_token_id]
    for answer, before in zip(generate(base, expert, asked, IMMEDIATE), longest, strict=True):
        cut = min(
            (before.tokens.index(t) for t in (other, base.tokenizer.eos_token_id) if t in before.tokens), default=39
        )
        assert answer.tokens == before.tokens[: cut + 1]
        assert answer.ended_by == (
            "length" if cut == 39 and answer.tokens[-1] not in base.end_ids() | {other} else "end"
        )
        if answer.ended_by == "end":
            assert answer.text == base.tokenizer.decode(answer.tokens[:-1], skip_special_tokens=True)
    assert {answer.ended_by for answer in generate(base, expert, asked, IMMEDIATE)} == {"end", "length"}


def test_tokens_are_reported_as_they_are_settled():
    base, expert = pair(13)
    asked, seen = requests(5, 13), {}
    answers = generate(
        base, expert, asked, replace(IMMEDIATE, deferral=Deferral(8, 2), max_rows=2),
        on_token=lambda index, step: seen.setdefault(index, []).append(step),
    )  # fmt: skip
    assert [seen[index] for index in range(5)] == [answer.trace for answer in answers]


def endless(seed):
    """A pair whose answers do not end by themselves."""
    base, expert = pair(seed, positions=600)
    for side in (base, expert):
        with torch.no_grad():
            side.model.lm_head.weight[side.tokenizer.eos_token_id] = 0
            side.model.lm_head.weight[side.tokenizer.convert_tokens_to_ids("w5")] *= 1.5
    return base, expert


class Watching(EarlyStop):
    """The rule with a trigger of its own, that remembers the lengths of what it was shown."""

    def trigger(self, tail):
        seen.append(len(tail.split()))
        return "seen" if len(seen) == 4 else None

    def ends_at(self, token_text):
        return token_text == "w5"


seen: list[int] = []


def test_the_stop_rule_looks_at_its_lengths_and_ends_at_a_mark_beyond_the_cap():
    base, expert = endless(14)
    rule, ran = Watching(first=12, last=60, every=7, tail_tokens=9, grace_tokens=20), False
    for request in requests(2, 14):
        seen.clear()
        settings = replace(IMMEDIATE, max_new_tokens=120, early_stop=rule, strength=0.5)
        (answer,) = generate(base, expert, [request], settings)
        plain = generate(base, expert, [request], replace(settings, early_stop=None))[0]
        marks = [i + 1 for i, s in enumerate(plain.trace) if base.tokenizer.decode([s.token]) == "w5" and i + 1 >= 55]
        if plain.ended_by == "length":
            # Looked at 14, 21, 28 and 35; triggered at 35, so the cap is 55.
            assert seen == [9, 9, 9, 9] and answer.stop_reason == "seen"
            assert answer.tokens == plain.tokens[: marks[0] if marks else 120]
            assert answer.ended_by == ("stop rule" if marks else "length")
            ran |= bool(marks)
        seen.clear()
        calm = generate(base, expert, [request], replace(settings, strength=0.1))[0]
        assert seen == [] and calm.stop_reason is None
    assert ran


def test_rated_by_the_base_itself():
    """A random model's ratings cannot be read: risky on every axis, and said so."""
    base, expert = pair(15)
    (answer,) = generate(base, expert, ["w1 w2"], replace(IMMEDIATE, strength=None, rating_tokens=8))
    assert answer.rating == Rating(7, 7, 7, 7, parsed=False) and (answer.risk, answer.strength) == (7, 0.9)
    assert answer.rating_seconds > 0
    low = replace(IMMEDIATE, strength=None, rating_tokens=8, risk=RiskRule("two_levels"))
    assert generate(base, expert, ["w1 w2"], low)[0].strength == 0.9


def test_the_trace_as_json():
    import json

    base, expert = pair(16)
    (answer,) = generate(base, expert, ["w1 w2"], replace(IMMEDIATE, strength=0.9, gate=LeakyGate(threshold=0.3)))
    found = json.loads(json.dumps(answer.to_json(base.tokenizer)))
    columns = found["trace"]
    assert {len(column) for column in columns.values()} == {len(answer.tokens)}
    assert columns["fired"] == [step.fired for step in answer.trace] and any(columns["fired"])
    assert columns["strength"] == [0.9 if fired else 0.0 for fired in columns["fired"]]
    assert columns["token"][0] == base.tokenizer.decode([answer.tokens[0]])
    assert found["threshold"] == 0.3 and found["strength"] == 0.9 and found["rating"] is None


def test_no_prompts_no_answers():
    base, expert = pair(17)
    assert generate(base, expert, []) == []
