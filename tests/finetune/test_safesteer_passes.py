"""SafeSteer's hooks, teacher, sampling and direction on tiny random Llamas."""

import copy

import pytest
import torch

from classifiers.errors import ModelError
from finetune.errors import FinetuneDataError, FinetuneModelError, SafetyTokenError
from finetune.loading import LoraSettings, add_lora
from finetune.model_passes import last_logits, left_padded
from finetune.safesteer import partial_reverse_kl
from finetune.safesteer.extraction import (
    DirectionPrompts,
    find_direction,
    mean_inputs,
    refusal_token_ids,
    template_suffix_length,
)
from finetune.safesteer.residual_hooks import ablating, decoder_blocks, steering
from finetune.safesteer.rollouts import TrainingPrompt, answer_logits, plan_answers, rollout_batch
from finetune.safesteer.sampling import AnswerRequest, SampledAnswer, SamplingLimits, draw, paired, sample_answers
from finetune.safesteer.teacher import SteeredTeacher
from finetune.safesteer.token_selection import banned_ids, random_tokens, select_safety_tokens
from rephrasers.keyed_draws import keyed_uniforms
from tests.finetune.planted_llama import HARMFUL, REFUSE, planted_model
from tests.finetune.tiny_llama import make_model, make_tokenizer

END, PAD = 258, 258
IDS = torch.tensor([[5, 9, 17, 3]])
LIMITS = SamplingLimits(6, frozenset({END}))


@pytest.fixture
def model():
    return make_model(259, eos_token_id=END)


@pytest.fixture
def direction():
    torch.manual_seed(3)
    return torch.randn(16)


def trained_lora(model):
    """The model with an adapter that changes its logits."""
    student = add_lora(model, LoraSettings(rank=2, dropout=0.3), seed=1)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, weight in student.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    return student.train()


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


def test_hooks_leave_no_trace_after_an_exception_either(model, direction):
    before, weights = logits(model), [weight.clone() for weight in model.parameters()]
    blocks = list(decoder_blocks(model))
    with steering(blocks[1], direction):
        assert not torch.equal(logits(model), before)
    with pytest.raises(RuntimeError, match="stop"), ablating(blocks, direction), steering(blocks[0], direction):
        raise RuntimeError("stop")
    assert torch.equal(logits(model), before)
    assert all(torch.equal(one, two) for one, two in zip(weights, model.parameters(), strict=True))


@pytest.mark.parametrize("layer", [0, 1])
def test_the_hook_of_a_block_is_an_addition_to_what_lies_before_it(model, direction, layer):
    place = model.get_input_embeddings() if layer == 0 else decoder_blocks(model)[0]

    def add(_, __, output):
        return (output[0] + direction, *output[1:]) if isinstance(output, tuple) else output + direction

    handle = place.register_forward_hook(add)
    expected = logits(model)
    handle.remove()
    with steering(decoder_blocks(model)[layer], direction):
        assert torch.equal(logits(model), expected)


def test_ablation_leaves_nothing_of_the_direction_in_the_stream(model, direction):
    seen = []
    handle = model.model.norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with ablating(list(decoder_blocks(model)), direction):
        logits(model)
    handle.remove()
    assert float((seen[0] @ direction).abs().max()) < 1e-3 * float(direction.norm() * seen[0].norm())


def test_one_copy_of_the_weights_is_the_same_teacher_as_two(model, direction):
    separate = SteeredTeacher(copy.deepcopy(model), direction, 1, 0.7)
    student = trained_lora(model)
    shared = SteeredTeacher(student, direction, 1, 0.7)
    assert shared.shares_weights and not separate.shares_weights
    torch.manual_seed(0)
    answer, plain = shared.logits(input_ids=IDS), logits(copy.deepcopy(student).eval())
    assert torch.allclose(answer, separate.logits(input_ids=IDS), atol=1e-5)
    assert not torch.allclose(answer, plain, atol=1e-2), "the adapter changes what the student says"
    assert not answer.requires_grad
    # Adapter, hook, gradients and modes are as before, after an exception too.
    trainable = [name for name, weight in student.named_parameters() if weight.requires_grad]
    with pytest.raises(RuntimeError), shared.frozen():
        assert not student.training
        raise RuntimeError
    assert student.training and torch.is_grad_enabled()
    assert trainable == [name for name, weight in student.named_parameters() if weight.requires_grad] != []
    assert torch.equal(logits(copy.deepcopy(student).eval()), plain)


def test_a_fresh_adapter_without_steering_is_its_own_teacher(model):
    student = add_lora(model, LoraSettings(rank=2), seed=1)
    teacher = SteeredTeacher(student, torch.ones(16), 0, coefficient=0.0)
    one, two, tokens, mask = (
        student(input_ids=IDS).logits,
        teacher.logits(input_ids=IDS),
        torch.arange(7),
        torch.ones(1, 4),
    )
    value = partial_reverse_kl(one, two, tokens, mask, form="generalised")
    value.backward()
    gradients = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert float(value) == 0 and gradients and all(float(g.abs().max()) < 1e-6 for g in gradients)


def test_padding_on_either_side_changes_no_answer_loss(model, direction):
    teacher = SteeredTeacher(copy.deepcopy(model), direction, 1)
    answers = [SampledAnswer("a", (5, 9, 17), (3, 4)), SampledAnswer("b", (8,), (1, 2, 7, END))]

    def losses(batch):
        forward = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
        forward["logits_to_keep"] = batch["response_mask"].shape[1] + 1
        student, steered = model(**forward).logits, teacher.logits(**forward)
        found = partial_reverse_kl(
            answer_logits(student), answer_logits(steered), torch.arange(9), batch["response_mask"], reduction="none"
        )
        return [row[mask] for row, mask in zip(found, batch["response_mask"], strict=True)]

    together = losses(rollout_batch(answers, PAD))
    alone = [losses(rollout_batch([answer], PAD))[0] for answer in answers]
    for one, two, answer in zip(together, alone, answers, strict=True):
        assert len(one) == len(answer.answer) and torch.allclose(one, two, atol=1e-5)


def test_the_answer_mask_begins_at_the_last_prompt_token_and_ends_with_the_end_token():
    batch = rollout_batch([SampledAnswer("a", (5, 9), (3, 4, END)), SampledAnswer("b", (8, 7, 6), (1,))], PAD)
    assert batch["input_ids"].tolist() == [[PAD, 5, 9, 3, 4, END], [8, 7, 6, 1, PAD, PAD]]
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch["response_mask"].tolist() == [[True] * 3, [True, False, False]]
    assert answer_logits(torch.arange(4)[None, :, None]).flatten().tolist() == [0, 1, 2]


def test_sampling_is_the_models_distribution_and_no_neighbours_concern(model):
    requests = [AnswerRequest(f"r{n}", tuple(range(1, 2 + n))) for n in range(5)]
    together = {a.id: a.answer for a in sample_answers(model, requests, LIMITS, 7, PAD, 5)}
    alone = {a.id: a.answer for a in sample_answers(model, requests, LIMITS, 7, PAD, 1)}
    assert together == alone and len(set(together.values())) > 1
    assert {a.id: a.answer for a in sample_answers(model, requests, LIMITS, 8, PAD, 5)} != together
    # Teacher-forcing the sampled ids gives the distributions that their draws fell into: what is scored is what was sampled.
    answer = together["r2"]
    row = last_logits(model, [(*requests[2].prompt, *answer)], PAD, 1, keep=len(answer) + 1)[0]
    draws = torch.from_numpy(keyed_uniforms(7, "rollout", "r2", 6))[: len(answer)]
    assert draw(row[:-1], draws).tolist() == list(answer)
    uniform = torch.rand(20000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.softmax(row[0], -1)
    counts = torch.bincount(draw(row[:1].expand(20000, -1), uniform), minlength=259) / 20000
    assert float((counts - wanted).abs().max()) < 0.015
    forced = list(sample_answers(model, requests, SamplingLimits(6, frozenset(), frozenset({END})), 7, PAD, 5))
    assert all(len(one.answer) == 6 and END not in one.answer for one in forced)


def test_answers_are_paired_by_id_and_a_wrong_pair_is_refused():
    requests = [AnswerRequest(f"p{n}", (n,)) for n in range(4)]
    answers = [SampledAnswer(f"p{n}", (n,), (n, n)) for n in (2, 0, 3, 1)]
    assert [one.answer[0] for one in paired(requests, answers)] == [0, 1, 2, 3]
    swapped = [SampledAnswer("p2", (0,), (2,)), SampledAnswer("p0", (2,), (0,)), *answers[2:]]
    with pytest.raises(FinetuneDataError, match="sampled from another prompt"):
        paired(requests, swapped)
    for wrong in (answers[1:], [*answers[1:], answers[1]], [*answers, SampledAnswer("p9", (9,), (9,))]):
        with pytest.raises(FinetuneDataError, match=r"have the id|do not match by id"):
            paired(requests, wrong)


def test_the_published_batch_is_25_steps_of_four_prompts():
    prompts = [TrainingPrompt(f"p{n}", (n,)) for n in range(100)]
    plan = plan_answers(prompts, 8, 32, seed=42)
    assert len(plan) == 800 == 25 * 32
    for step in range(25):
        names = [one.prompt.id for one in plan[32 * step : 32 * step + 32]]
        assert len(set(names)) == 4 and all(names.count(name) == 8 for name in names)
    assert plan == plan_answers(prompts[::-1], 8, 32, seed=42) != plan_answers(prompts, 8, 32, seed=1)
    for bad, samples, size, message in (
        (prompts, 8, 12, "no multiple"),
        (prompts[:3], 8, 32, "fewer than"),
        (prompts + prompts, 8, 32, "same id"),
    ):
        with pytest.raises(FinetuneDataError, match=message):
            plan_answers(bad, samples, size, 1)


def planted_prompts():
    def rows(first, count, harmful):
        return [(first + n, *((HARMFUL,) if harmful else ()), 30 + n, 40, 41) for n in range(count)]

    return DirectionPrompts(rows(50, 6, True), rows(60, 3, True), rows(70, 6, False), rows(80, 3, False))


def test_a_planted_direction_is_found_where_it_was_planted():
    model, prompts = planted_model(), planted_prompts()
    found = find_direction(model, prompts, [REFUSE], suffix_length=2, pad_id=PAD, batch_size=4)
    assert (found.chosen.layer, found.chosen.position) == (2, -1)
    assert found.vector.abs().argmax() == 1 and found.kept["harmful_train"] == 6
    assert {row.layer for row in found.table} == {0, 1, 2, 3}, "layer 4 of 5 is barred"
    assert all(row.kl != row.kl for row in found.table if row.layer < 2), "no difference yet: no direction"
    means = mean_inputs(model, prompts.harmful_train, 2, PAD, 4) - mean_inputs(model, prompts.harmless_train, 2, PAD, 4)
    assert torch.equal(means[2, -1].float(), found.vector)
    batch = left_padded(prompts.harmless_train, PAD)
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
    expected = mean_inputs(model, prompts.harmless_train, 2, PAD, 2)
    assert torch.allclose(expected[3], states[3][:, -2:].double().mean(0), atol=1e-6)


def test_candidates_are_scored_with_the_coefficient_of_the_teacher():
    model, prompts = planted_model(), planted_prompts()
    once, twice = (
        find_direction(model, prompts, [REFUSE], 2, PAD, 4, coefficient=times).chosen for times in (1.0, 2.0)
    )
    assert twice.added > once.added and (twice.kl, twice.ablated) == (once.kl, once.ablated)
    with pytest.raises(FinetuneModelError, match=r"raise direction\.coefficient"):
        find_direction(model, prompts, [REFUSE], 2, PAD, 4, coefficient=1e-3)


def test_a_model_that_refuses_nothing_or_everything_is_refused():
    prompts = planted_prompts()
    mild = DirectionPrompts(prompts.harmless_train, *list(vars(prompts).values())[1:])
    with pytest.raises(
        FinetuneDataError, match="none of the 6 prompts of harmful_train is left: the model refuses none"
    ):
        find_direction(planted_model(), mild, [REFUSE], 2, PAD)
    with pytest.raises(FinetuneDataError, match="harmless_train is left: the model refuses all"):
        find_direction(
            planted_model(),
            DirectionPrompts(prompts.harmful_train, prompts.harmful_validation, prompts.harmful_train, [(1,)]),
            [REFUSE], 2, PAD,
        )  # fmt: skip
    with pytest.raises(FinetuneDataError, match="holds no prompts"):
        find_direction(planted_model(), DirectionPrompts([], [], [], []), [REFUSE], 2, PAD)
    with pytest.raises(FinetuneModelError, match="none of 2 candidate directions"):
        find_direction(planted_model(layer=2, layers=2), prompts, [REFUSE], 2, PAD)


def test_safety_tokens_are_those_that_the_direction_raises():
    model, tokenizer = planted_model(), make_tokenizer()
    found = find_direction(model, planted_prompts(), [REFUSE], 2, PAD, 4)
    teacher = SteeredTeacher(model, found.vector, found.chosen.layer)
    settings = {"horizon": 3, "floor": 1e-6, "size": 4, "votes_per_record": 2, "samples": 2, "seed": 5}
    chosen = select_safety_tokens(teacher, found.harmless, tokenizer, frozenset({END}), **settings)
    assert chosen[0].id == REFUSE and chosen[0].votes == 3 * 2 * 3
    assert chosen[0].steered_probability > 0.9 > chosen[0].plain_probability
    assert chosen == select_safety_tokens(teacher, found.harmless, tokenizer, frozenset({END}), **settings)
    assert not {token.id for token in chosen} & set(banned_ids(tokenizer, 259))
    with pytest.raises(SafetyTokenError, match="the token set is empty"):
        select_safety_tokens(teacher, found.harmless, tokenizer, frozenset({END}), **{**settings, "floor": 1.1})
    with torch.no_grad():
        model.lm_head.weight[END, 2] = 50.0
    with pytest.raises(SafetyTokenError, match="ends its turn at once"):
        select_safety_tokens(teacher, found.harmless, tokenizer, frozenset({END}), **{**settings, "horizon": 1})


def test_random_tokens_are_as_many_ordinary_ones():
    tokenizer = make_tokenizer()
    drawn = random_tokens(20, tokenizer, 270, seed=3)
    assert len(set(drawn)) == 20 and not set(drawn) & set(banned_ids(tokenizer, 270))
    assert banned_ids(tokenizer, 270) == list(range(256, 270))
    assert drawn == random_tokens(20, tokenizer, 270, seed=3) != random_tokens(20, tokenizer, 270, seed=4)


def test_template_and_openings_are_read_off_the_tokenizer():
    tokenizer = make_tokenizer()

    def encode(text):
        chat = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids.count(tokenizer.bos_token_id) == 1, "no BOS twice"
        return ids

    # <|end|> \n <|start|> a s s i s t a n t \n
    assert template_suffix_length(encode) == 3 + len("assistant\n")
    with pytest.raises(FinetuneModelError, match="puts no token behind"):
        template_suffix_length(lambda text: list(text.encode()))
    assert refusal_token_ids(["I", "N", "I"], tokenizer) == tokenizer.convert_tokens_to_ids(["I", "N"])
    with pytest.raises(FinetuneModelError, match="'Sorry' is 5 tokens"):
        refusal_token_ids(["Sorry"], tokenizer)
    with pytest.raises(ModelError, match="SafeSteer needs a decoder of blocks"):
        decoder_blocks(torch.nn.Linear(2, 2))
