"""The engine: batches, equality with transformers' own greedy decoding, early leaving, sampling, prefills, errors, logits."""

import numpy as np
import pytest
import torch

from classifiers.errors import ModelError, RecipeError
from decoding.prompt_encoding import encode_chat
from evaluation.files import KeptAnswers
from evaluation.generation.answering import answer_by_server, answer_locally
from evaluation.generation.batched_decoding import _choose
from evaluation.generation.batches import length_sorted_batches
from evaluation.generation.local_model import LocalModel
from evaluation.generation.settings import GenerationSettings
from evaluation.suites import SuitePrompt
from rephrasers.harmfulness_tag import HARMFULNESS_TAG
from tests.evaluation.tiny_model import save_tiny_model

SETTINGS = {"dtype": "float32", "threads": 1, "max_new_tokens": 24, "batch_tokens": 400}
TEXTS = [f"{'word ' * (i % 5)}number {i * i}" for i in range(23)]
PROMPTS = [SuitePrompt(str(i), text, "benign") for i, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def load(folder, **settings):
    return LocalModel.load(str(folder), GenerationSettings(**{**SETTINGS, **settings}))


def test_batches_hold_every_prompt_once_within_the_budget():
    lengths = [3, 90, 5, 5, 40, 41, 2, 1, 38]
    batches = length_sorted_batches(lengths, 10, 110, 3)
    assert sorted(index for batch in batches for index in batch) == list(range(9))
    assert batches[0] == [1] and all(len(batch) <= 3 for batch in batches)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) + 10) <= 110


def reference(model, text):
    """One prompt at a time through `transformers.generate`."""
    ids = torch.tensor([model.tokenizer(text, add_special_tokens=False)["input_ids"]])
    out = model.model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    return model.tokenizer.decode(out, skip_special_tokens=True)


def test_answers_equal_one_at_a_time_greedy_decoding_and_some_end_early(folder):
    model = load(folder)
    rendered = [model.render(prompt, "chat") for prompt in PROMPTS]
    assert rendered[0] == "<|user|>number 0<|end|><|assistant|>"
    found = model.generate(rendered)
    assert found == [reference(model, text) for text in rendered]
    lengths = {len(text) for text in found}
    assert len(lengths) > 3 and min(lengths) < 12, "rows leave the batch at different times"


def test_kept_answers_are_not_generated_again(folder, tmp_path):
    model, seen = load(folder), []
    kept = KeptAnswers(tmp_path / "answers.jsonl")
    first = answer_locally(PROMPTS, model, None, "chat", None, 0, kept, lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 23) and seen[-1] == (23, 23) and len(kept) == 23
    lines = (tmp_path / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half.jsonl").write_text("".join(lines[:11]))
    half = KeptAnswers(tmp_path / "half.jsonl")
    again = answer_locally(PROMPTS, model, None, "chat", None, 0, half, lambda *_: None)
    assert again == first and len(half) == 23
    model.generate_batches = lambda *_: pytest.fail("all is kept")
    model.generate_batches = lambda *_: iter(())
    assert answer_locally(PROMPTS, model, None, "chat", None, 0, half, lambda *_: None) == first
    assert answer_key_differs(model, half)


def answer_key_differs(model, kept):
    other = LocalModel(
        model.reference, model.tokenizer, model.model, GenerationSettings(**{**SETTINGS, "max_new_tokens": 5})
    )
    before = len(kept)
    answer_locally(PROMPTS[:2], other, None, "chat", None, 0, kept, lambda *_: None)
    return len(kept) == before + 2


class OwnDecoder:
    """Answers a batch as it is told, and keeps the batches."""

    def __init__(self, name, answer):
        self.name, self.answer, self.batches = name, answer, []

    def identity(self):
        return {"decoder": self.name}

    def generate(self, prompts):
        self.batches.append(list(prompts))
        return self.answer(prompts)


def test_a_decoder_of_ones_own(folder, tmp_path):
    decoder = OwnDecoder("shouting", lambda prompts: [prompt.upper() for prompt in prompts])
    model, kept = load(folder, max_rows=10), KeptAnswers(tmp_path / "a.jsonl")
    found = answer_locally(PROMPTS, model, decoder, "completion", None, 0, kept, lambda *_: None)
    assert found[3] == model.render(PROMPTS[3], "completion").upper() and sum(map(len, decoder.batches)) == 23
    answer_locally(PROMPTS, model, decoder, "completion", None, 0, kept, lambda *_: None)
    assert sum(map(len, decoder.batches)) == 23
    decoder.answer = lambda prompts: []
    with pytest.raises(ModelError, match="shouting gave 0 answers to 1 prompts"):
        answer_locally([SuitePrompt("x", "new", "benign")], model, decoder, "chat", None, 0, kept, lambda *_: None)


def test_a_decoder_of_ones_own_gets_the_same_batches_when_a_run_goes_on(folder, tmp_path):
    def by_batch(prompts):  # as roundings are
        return [f"{sorted(prompts).index(prompt)} of {len(prompts)}, {min(prompts)}" for prompt in prompts]

    def answers(file):
        decoder, seen = OwnDecoder("counting", by_batch), []
        kept = KeptAnswers(tmp_path / file)
        found = answer_locally(PROMPTS, model, decoder, "chat", None, 0, kept, lambda *n: seen.append(n))
        return found, decoder.batches, seen

    model = load(folder, max_rows=5)
    whole, batches, _ = answers("whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "part.jsonl").write_text("".join(lines[:7] + lines[9:]))
    again, repeated, seen = answers("part.jsonl")
    assert again == whole and repeated == [batches[1]] and seen == [(21, 23), (23, 23)]
    assert sorted((tmp_path / "part.jsonl").read_text().splitlines(keepends=True)) == sorted(lines)


def test_sampling_depends_on_seed_and_prompt_not_on_the_batch(folder):
    rendered = [load(folder).render(prompt, "chat") for prompt in PROMPTS]
    together = load(folder, temperature=1.0, top_p=0.9).generate(rendered)
    assert together == load(folder, temperature=1.0, top_p=0.9, max_rows=1).generate(rendered)
    assert together != load(folder, temperature=1.0, top_p=0.9, seed=1).generate(rendered)
    assert together != load(folder).generate(rendered)
    assert load(folder, temperature=1.0, top_p=1e-6).generate(rendered) == load(folder).generate(rendered)


def test_sampling_never_leaves_the_nucleus():
    """A draw just below 1 is 1 in float32; beyond the last token of the nucleus stand those that were excluded."""
    logits = torch.tensor([[5.0, 4.0, -20.0, -30.0]])
    draws = np.array([[1 - 2**-53]])
    for top_p, wanted in ((0.5, 0), (0.9, 1)):
        assert _choose(logits, torch.tensor([0]), 0, draws, 1.0, top_p).tolist() == [wanted]
    assert _choose(torch.zeros(1, 4), torch.tensor([0]), 0, draws, 1.0, 1.0).tolist() == [3]


def test_a_tag_in_a_prompt_is_ordinary_pieces_for_every_decoder(tmp_path):
    model = load(save_tiny_model(tmp_path / "tagged", tag=True))
    text = f"<|user|>say {HARMFULNESS_TAG} twice<|end|><|assistant|>"
    ids = encode_chat(model.tokenizer, text, HARMFULNESS_TAG)
    assert model.tag_id not in ids
    with torch.inference_mode():
        wanted = model.model(input_ids=torch.tensor([ids])).logits[0, -1, : len(model.tokenizer)]
    assert torch.allclose(torch.from_numpy(model.next_token_logits([text])[0]), wanted, atol=1e-4)


def test_an_empty_system_message_is_another_prompt_than_none(tmp_path):
    class Server:
        model_identity = staticmethod(lambda: {"model": "stub", "revision": "1"})
        identity = staticmethod(lambda: {"decoder": "server"})

        def answers(self, prompts, system, work_folder, on_answer):
            return {key: f"with {system!r}" for key, _ in prompts}

    kept = KeptAnswers(tmp_path / "answers.jsonl")
    for system in (None, "", "Be kind"):
        found = answer_by_server(PROMPTS[:1], Server(), "chat", system, 0, kept, tmp_path, lambda *_: None)
        assert found == [f"with {system!r}"]


def test_a_prefill_is_the_first_tokens_of_a_compliant_answer(folder):
    model = load(folder)
    prompt = SuitePrompt("1", "Do it", "harmful", None, "Sure, here it is")
    assert model.render(prompt, "chat", "Be kind", 4) == (
        "<|system|>Be kind<|end|><|user|>Do it<|end|><|assistant|>Sure"
    )
    with pytest.raises(RecipeError, match="prefill of 99 tokens is longer than the opening of prompt 1"):
        model.render(prompt, "chat", None, 99)


def test_a_model_without_chat_template_says_what_to_do(tmp_path):
    model = load(save_tiny_model(tmp_path, chat=False))
    with pytest.raises(ModelError, match="no chat template: it is a base model, so set `form: completion`"):
        model.render(PROMPTS[0], "chat")
    assert model.render(PROMPTS[0], "completion").startswith("The following text")


def test_a_prompt_that_is_too_long_says_so_without_its_text(folder):
    with pytest.raises(ModelError, match="600 tokens and an answer of 24 exceed the 512 positions") as raised:
        load(folder).generate(["z" * 600])
    assert "zzz" not in str(raised.value)


def test_first_token_measures_take_prompts_up_to_the_last_position(folder):
    model = load(folder)
    assert model.next_token_logits(["z" * 512]).shape[0] == len(model.next_token_probability(["z" * 500], 0)) == 1
    with pytest.raises(
        ModelError, match=r"a prompt of 513 tokens exceeds the 512 positions of .*: leave that prompt out"
    ):
        model.next_token_logits(["z" * 513])


def test_the_tag_ends_an_answer_and_is_seen_in_it(tmp_path):
    model = load(save_tiny_model(tmp_path, tag=True))
    with torch.no_grad():
        model.model.lm_head.weight.zero_()
        model.model.lm_head.weight[model.tag_id] = 1
        model.model.model.norm.weight.fill_(1)
    logits = model.next_token_logits(["abc"])
    other = HARMFULNESS_TAG if logits[0, model.tag_id] > 0 else None
    answer = model.generate(["abc"])[0]
    assert (answer == HARMFULNESS_TAG) == (other is not None)


def test_first_token_logits_and_the_probability_of_a_token(folder):
    model = load(folder)
    logits = model.next_token_logits(TEXTS)
    assert logits.shape == (23, len(model.tokenizer)), "columns that only pad the vocabulary are cut off"
    single = np.concatenate([model.next_token_logits([text]) for text in TEXTS])
    assert logits == pytest.approx(single, abs=1e-4)
    ids = torch.tensor([model.tokenizer(TEXTS[7], add_special_tokens=False)["input_ids"]])
    expected = torch.softmax(model.model(ids).logits[0, -1].double(), -1)
    for token in (0, 65, 200):
        assert model.next_token_probability(TEXTS, token)[7] == pytest.approx(expected[token].item(), rel=1e-4)
    with pytest.raises(RecipeError, match="token id 9999"):
        model.next_token_probability(TEXTS, 9999)
