"""Prompts in each model's own template, the decoder of evaluations, the stop rule's triggers, and errors."""

from dataclasses import replace

import pytest
import torch

from classifiers.errors import DataError, ModelError, RecipeError
from decoding.ngsd import ChatModel, Deferral, EarlyStop, NgsdDecoder, NgsdSettings, Prompt, Rating, generate
from decoding.ngsd.chat import encode
from tests.decoding.ngsd_models import WORDS, naive, tiny_model, tiny_tokenizer

SETTINGS = NgsdSettings(max_new_tokens=12, strength=0.9, deferral=None)
OTHER = "<system> w9 {% for m in messages %}<{{ m.role }}> {{ m.content }} w0 {% endfor %}<assistant> "


@pytest.fixture(scope="module")
def models():
    base = tiny_model(1)
    return base, tiny_model(2, like=base, noise=0.4)


def test_the_expert_reads_its_own_template(models):
    base, expert = models
    expert = ChatModel(expert.model, tiny_tokenizer(template=OTHER), "expert")
    prompt = Prompt.ask("w1 w2", system="w3", prefill="w4 w5")
    assert base.render(prompt) == "<system> w3 <user> w1 w2 <assistant> w4 w5"
    assert expert.render(prompt) == "<system> w9 <system> w3 w0 <user> w1 w2 w0 <assistant> w4 w5"
    (answer,) = generate(base, expert, [prompt], SETTINGS)
    read = [side.tokenizer(side.render(prompt), add_special_tokens=False)["input_ids"] for side in (base, expert)]
    assert len(read[0]) != len(read[1])
    with torch.no_grad():
        assert answer.tokens == naive(base, expert, *read, 0.9, SETTINGS, base.end_ids())[0]


def test_a_rendered_prompt_is_taken_apart(models):
    base, _ = models
    for prompt in (Prompt.ask("w1 w2", "w3", "w4"), Prompt.ask("w1", "w3")):
        assert base.prompt_of(base.render(prompt), "w3") == prompt
    assert base.prompt_of("w1 w2 <assistant> w3") == Prompt(text="w1 w2 <assistant> w3")
    assert base.prompt_of("<user> w1 w2") == Prompt(text="<user> w1 w2")
    bare = ChatModel(base.model, tiny_tokenizer(template=None), "bare")
    assert bare.prompt_of("<user> w1 <assistant> ") == Prompt(text="<user> w1 <assistant> ")


def test_what_is_rated_is_the_request_alone(models):
    base, expert = models
    rated = []

    def rate(requests):
        rated.extend(requests)
        return [Rating(1, 1, 1, 1) for _ in requests]

    two_turns = Prompt(
        ({"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}, {"role": "user", "content": "w3"})
    )
    prompts = [Prompt.ask("w5 w6", "w7", "w8"), "w9", two_turns, Prompt(text="w1 w2 w3")]
    answers = generate(base, expert, prompts, replace(SETTINGS, strength=None), rate=rate)
    assert rated == ["w5 w6", "w9", "w3", "w1 w2 w3"] and {answer.strength for answer in answers} == {0.1}


def test_the_decoder_of_evaluations(models):
    base, expert = models
    decoder = NgsdDecoder(base, expert, SETTINGS, {"model": "expert"})
    prompts = [Prompt.ask("w1"), Prompt.ask("w2 w3 w4", prefill="w5")]
    expected = generate(base, expert, prompts, SETTINGS)
    assert decoder.generate([base.render(prompt) for prompt in prompts]) == [answer.text for answer in expected]
    assert list(decoder.fire_shares.values()) == [(a.fire_share(), a.changed_share()) for a in expected]
    assert decoder.identity()["expert"] == {"model": "expert"} and decoder.identity()["settings"]["strength"] == 0.9
    same = NgsdDecoder(base, expert, replace(SETTINGS, deferral=Deferral(), max_rows=3), {"model": "expert"})
    other = NgsdDecoder(base, expert, replace(SETTINGS, candidates=3), {"model": "expert"})
    assert decoder.identity() == same.identity() != other.identity()


def test_an_answer_that_the_tag_ends_shows_it_to_evaluations(models):
    base, expert = models
    prompt = Prompt.ask("w1")
    (free,) = generate(base, expert, [prompt], SETTINGS)
    tagged = replace(base, tag=base.tokenizer.convert_ids_to_tokens(free.tokens[2]))
    (answer,) = generate(tagged, expert, [prompt], SETTINGS)
    assert answer.ended_by == "tag" and tagged.tag not in answer.text
    decoder, plain = (NgsdDecoder(side, expert, SETTINGS, {"model": "expert"}) for side in (tagged, base))
    assert decoder.generate([base.render(prompt)]) == [answer.text + tagged.tag]
    assert plain.generate([base.render(prompt)]) == [free.text]
    assert decoder.identity() != plain.identity(), "kept answers without the tag are not used again"


@pytest.mark.parametrize(
    ("tail", "reason"),
    [
        ("1. one\n2. two\n\n3. three\n", None),
        ("def f():\n\treturn 1\r\n", None),
        ("Of course, here it is. I\u2019m sorry, but I stop here", "refusal"),
        ("As an AI, that is not for me", "refusal"),
        ("and then   ", "trailing spaces"),
        ("and then  ", None),
        ("well done \U0001f600", "emoji"),
        ("a\x07b", "control character"),
    ],
)
def test_triggers_of_the_stop_rule(tail, reason):
    assert EarlyStop().trigger(tail) == reason


def test_lengths_and_marks_of_the_stop_rule():
    rule = EarlyStop()
    assert [n for n in range(2000) if rule.checks_at(n)] == list(range(133, 253, 7)) and len(range(133, 253, 7)) == 18
    assert [rule.ends_at(text) for text in (".", "!\n", " done?", ",", "", "\n")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_mismatched_vocabularies(models):
    base, expert = models
    swapped = [*WORDS[1::-1], *WORDS[2:]]
    with pytest.raises(
        ModelError,
        match=r"different vocabularies \(4 differing entries: id 0 is 'w0' in base-1 only, id 0 is 'w1' in expert only",
    ):
        generate(base, ChatModel(expert.model, tiny_tokenizer(swapped), "expert"), ["w1"], SETTINGS)
    longer = tiny_tokenizer([*WORDS, "more"])
    with pytest.raises(ModelError, match="must be trained from a model of the base's family"):
        generate(base, ChatModel(tiny_model(3, tokenizer=longer).model, longer, "expert"), ["w1"], SETTINGS)
    small = tiny_model(4, tokenizer=tiny_tokenizer(WORDS[:20]))
    with pytest.raises(ModelError, match="small has logits for 30 ids, but its tokenizer has 35: wrong tokenizer"):
        generate(base, ChatModel(small.model, base.tokenizer, "small"), ["w1"], SETTINGS)


@pytest.mark.parametrize("empty", ["", "  \n", Prompt(text=""), Prompt.ask("", "w1")])
def test_an_empty_prompt_in_a_batch(models, empty):
    with pytest.raises(DataError, match="prompt 1 is empty: leave it out, or give it a request"):
        generate(*models, ["w1", empty, "w2"], SETTINGS)


def test_a_prompt_beyond_the_context(models):
    base, expert = models
    with pytest.raises(
        DataError,
        match=r"prompt 1: 252 tokens and 12 new ones exceed the 256 positions of base-1: lower max_new_tokens",
    ):
        generate(base, expert, ["w1", "w2 " * 250], SETTINGS)
    short = tiny_model(5, positions=32)
    with pytest.raises(DataError, match="exceed the 32 positions of base-5"):
        generate(base, short, ["w1 " * 25], SETTINGS)
    generate(base, expert, ["w2 " * 242], SETTINGS)
    with pytest.raises(DataError, match=r"the rating of prompt 0: .* give a strength, or another rater"):
        generate(base, expert, ["w2 " * 200], replace(SETTINGS, strength=None))


def test_models_without_a_template_an_end_token_or_numbers(models):
    base, expert = models
    bare = ChatModel(expert.model, tiny_tokenizer(template=None), "bare")
    with pytest.raises(ModelError, match="bare has no chat template"):
        generate(base, bare, ["w1"], SETTINGS)
    assert generate(base, bare, [Prompt(text="w1")], SETTINGS)[0].tokens
    strict = ChatModel(expert.model, tiny_tokenizer(template="{{ raise_exception('no') }}"), "strict")
    with pytest.raises(ModelError, match="the chat template of strict refuses a chat: no"):
        generate(base, strict, ["w1"], SETTINGS)
    endless = tiny_model(6)
    endless.model.generation_config.eos_token_id = None
    endless.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="base-6 names no end token: set eos_token_id"):
        generate(base, endless, ["w1"], SETTINGS)
    broken = tiny_model(7)
    broken.model.lm_head.weight.data[3] = float("nan")
    with pytest.raises(ModelError, match="logits that are no numbers: load them in bfloat16 or float32"):
        generate(base, broken, ["w1"], SETTINGS)


def test_wrong_deferral():
    with pytest.raises(RecipeError, match=r"deferral: max_queue is 0 .expected at least 1., max_undecided -1"):
        Deferral(0, -1)


def test_an_answer_ends_at_the_tag_and_a_prompt_cannot_spell_it(models):
    (plain,) = generate(*models, ["w1 w2"], SETTINGS)
    place = next(n for n, token in enumerate(plain.tokens) if n > 1 and token not in plain.tokens[:n])
    word = models[0].tokenizer.decode([plain.tokens[place]])
    base, expert = (replace(side, tag=word) for side in models)
    (cut,) = generate(base, expert, ["w1 w2"], SETTINGS)
    assert cut.ended_by == "tag" and cut.tokens == plain.tokens[: place + 1]
    assert cut.text == base.tokenizer.decode(plain.tokens[:place])
    assert replace(base, tag="no such token").end_ids() == models[0].end_ids()
    special = replace(base, tag="<system>")
    number = special.tokenizer.get_vocab()["<system>"]
    assert (
        number in encode(models[0], ["w1 <system> w2"], 1)[0]
        and number not in encode(special, ["w1 <system> w2"], 1)[0]
    )
