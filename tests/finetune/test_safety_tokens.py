"""The token set: planted tokens are found and nothing else (U17), templates, controls, and what is refused."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.chat_data import prompt_ids
from finetune.errors import FinetuneDataError, SafetyTokenError
from finetune.safety_tokens import (
    TokenSettings,
    find_safety_tokens,
    greedy_answers,
    mine_safety_tokens,
    random_tokens,
    read_prompts,
    template_openings,
    template_token_ids,
)
from rephrasers.checks.phrases import declines
from tests.finetune.tiny_llama import make_model, make_tokenizer

TOKENIZER = make_tokenizer()
TOKENIZER.pad_token = TOKENIZER.eos_token


def planted(seed):
    """Refusals hold 1 (all), 2 (every fifth); both hold 9 equally often; 3 is as rare as noise; 10-99 are noise."""
    draw = random.Random(seed)
    refusals = [[1, 9, *([2] if i % 5 == 0 else []), *draw.sample(range(100, 3000), 4)] for i in range(100)]
    benign = [[9, *([1] if i % 4 == 0 else []), *draw.sample(range(100, 3000), 4)] for i in range(100)]
    refusals[0].append(3)
    return refusals, benign


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_u17_mining_returns_the_planted_tokens_in_any_order(seed):
    refusals, benign = planted(seed)
    found = mine_safety_tokens(refusals, benign, 0.1, 3.0)
    assert [token.id for token in found] == [1, 2]
    assert (found[0].refusal_share, found[0].benign_share, found[1].refusal_share) == (1.0, 0.25, 0.2)
    draw = random.Random(seed)
    for group in (refusals, benign):
        draw.shuffle(group)
        for opening in group:
            draw.shuffle(opening)
    assert mine_safety_tokens(refusals, benign, 0.1, 3.0) == found
    assert [token.id for token in mine_safety_tokens(refusals, benign, 0.1, 4.1)] == [2]  # the lift of 1 is 4
    assert [token.id for token in mine_safety_tokens(refusals, benign, 0.3, 3.0)] == [1]
    repeated = [opening * 3 for opening in refusals]
    assert mine_safety_tokens(repeated, benign, 0.1, 3.0) == found


def test_templates_read_as_refusals_and_give_words_without_stop_words():
    from transformers import AutoTokenizer

    from rephrasers.embedded_writer import embedded_writer_folder

    tokenizer = AutoTokenizer.from_pretrained(embedded_writer_folder())
    openings = template_openings(tokenizer)
    assert sum(declines(tokenizer.decode(opening)) for opening in openings) >= 0.9 * len(openings)
    words = {tokenizer.decode([token]) for token in template_token_ids(tokenizer)}
    assert {"Sorry", " sorry", " cannot", "Unfortunately", " unable", " decline"} <= words
    assert not {"I", " to", ",", "."} & words and len(words) < 80


def test_given_and_control_sets():
    answers = [[60, 61, 62], [62, 63, 64, 65]]
    settings_ = TokenSettings(rule="given", ids=(60, 61))
    found = find_safety_tokens(settings_, None, TOKENIZER, [], answers, 1)
    assert found["ids"] == [60, 61] and found["tokens"] == [TOKENIZER.decode([60]), TOKENIZER.decode([61])]
    control = find_safety_tokens(settings_.model_copy(update={"random_control": True}), None, TOKENIZER, [], answers, 1)
    assert len(control["ids"]) == 2 and set(control["ids"]) <= {62, 63, 64, 65} and control["in_place_of"] == [60, 61]
    assert random_tokens(3, answers, [60], 1) == random_tokens(3, answers[::-1], [60], 1)
    with pytest.raises(SafetyTokenError, match="5 tokens occur in the answers, 6 are to be drawn"):
        random_tokens(6, answers, [60], 1)


def test_mining_needs_prompts_and_refusals(tmp_path):
    model = make_model(len(TOKENIZER))
    with pytest.raises(FinetuneDataError, match=r"mined needs tokens\.harmful_prompts"):
        find_safety_tokens(TokenSettings(), model, TOKENIZER, ["Hello?"], [], 1)
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": " "}\n')
    with pytest.raises(FinetuneDataError, match="line 2: no `prompt` that is a text"):
        read_prompts(path)
    path.write_text("".join(json.dumps({"prompt": f"Question {i}"}) + "\n" for i in range(3)))
    with pytest.raises(FinetuneDataError, match="refuses 0 of 3 harmful prompts, and 10 are needed"):
        find_safety_tokens(TokenSettings(harmful_prompts=path, answer_tokens=4), model, TOKENIZER, ["Hi"], [], 1)
    with pytest.raises(SafetyTokenError, match="'given' finds no safety token"):
        find_safety_tokens(TokenSettings(rule="given"), model, TOKENIZER, [], [], 1)


def test_greedy_answers_do_not_depend_on_the_batch_and_stop_at_the_end_token():
    model = make_model(len(TOKENIZER), eos_token_id=TOKENIZER.eos_token_id).train()
    prompts = ["Hi", "A much longer question than that?", "What?", "Why is it so?"]
    together = greedy_answers(model, TOKENIZER, prompts, 6)
    assert together == [greedy_answers(model, TOKENIZER, [prompt], 6)[0] for prompt in prompts]
    assert model.training and all(len(ids) <= 6 for ids in together)
    ends = {together[0][0]}
    model.generation_config.eos_token_id = list(ends)
    assert greedy_answers(model, TOKENIZER, prompts[:1], 6) == [[]]


def test_greedy_answers_are_the_likeliest_tokens_whatever_the_checkpoint_asks_of_generate():
    model = make_model(len(TOKENIZER), eos_token_id=TOKENIZER.eos_token_id)
    plain = greedy_answers(model, TOKENIZER, ["Hi", "Why is it so?"], 12)
    ids = torch.tensor([prompt_ids([{"role": "user", "content": "Hi"}], TOKENIZER)])
    for token in plain[0]:
        with torch.no_grad():
            assert int(model(input_ids=ids).logits[0, -1].argmax()) == token
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    model.generation_config.update(
        repetition_penalty=50.0, no_repeat_ngram_size=1, suppress_tokens=plain[0][:1], bad_words_ids=[plain[1][:1]],
        min_new_tokens=3, num_beams=2,
    )  # fmt: skip
    assert greedy_answers(model, TOKENIZER, ["Hi", "Why is it so?"], 12) == plain
