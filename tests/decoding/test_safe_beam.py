"""Safe Beam Search: the sheet's worked example, the plain version over random cases, transformers' own beams, identities."""

import math
import random

import pytest
import torch

from classifiers.errors import DataError, ModelError, RecipeError
from decoding.candidate_filter import (
    best_possible_score,
    boundary_risk,
    discard_riskiest,
    penalised_score,
    top_candidates,
)
from decoding.prompt_checks import check_vocabulary, find_tag_id, word_start_ids
from decoding.safe_beam import safe_beam_search
from decoding.safe_options import SafeBeamOptions
from tests.decoding.brute_force_beam import search
from tests.decoding.toy_model import ToyModel, drawn_logits, table_logits


@pytest.fixture(autouse=True)
def _one_thread():
    """Models this small only lose by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


A, B, C, END, TAG = range(5)
SHEET = {A: [0.1, 0.5, 0.2, 0.18, 0.02], B: [0.3, 0.1, 0.15, 0.05, 0.4], C: [0.4, 0.2, 0.1, 0.25, 0.05]}


def sheet_model():
    """The toy of the method sheet; the prompt is the id 5, its row the one after the prompt."""
    start = [0.45, 0.4, 0.1, 0.04, 0.01]
    return ToyModel(lambda ids: table_logits(SHEET, start)(ids), 6, END)


def padded(prompts):
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    return ids, torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])


def generated(output, prompt_length, row=0):
    return output.sequences[row, prompt_length : prompt_length + int(output.lengths[row])].tolist()


def test_worked_example_of_the_sheet():
    model = sheet_model()
    found = safe_beam_search(model, torch.tensor([[5]]), TAG, 2, 3, 10)
    assert generated(found, 1) == [A, END]
    assert float(found.scores[0]) == pytest.approx(-2.513306, abs=1e-6)
    assert found.risks[0].tolist() == pytest.approx([0.02, 0.02], abs=1e-6)
    # one pass over the prompt, then one over all candidates of a step
    assert model.forwards == [(1, 1), (1, 3), (2, 3), (1, 3)]
    plain = safe_beam_search(sheet_model(), torch.tensor([[5]]), TAG, 2, 3, 3, discard_fraction=0.0)
    assert generated(plain, 1) == [A, B, A] and float(plain.scores[0]) == pytest.approx(-2.695628, abs=1e-6)


@pytest.mark.parametrize("block", range(8))
def test_equals_the_plain_version(block):
    """40 batches a block, of up to 4 prompts: equal tokens, log-probabilities and risks, to the bit."""
    draw = random.Random(block)
    ended = set()
    for case in range(40):
        k, size, seed = draw.randint(1, 4), draw.randint(5, 9), draw.randrange(10**6)
        fraction = draw.choice([0.5, 0.5, 0.25, 0.0, 0.7])
        n = next(n for n in range(1, 99) if n - math.floor(fraction * n) >= k) + draw.randint(0, 2)
        if n > size - 1 - (case % 3 == 0):
            continue
        model = ToyModel(drawn_logits(seed, size, draw.choice([2, 3, 50])), size, size - 2)
        tag, end = size - 1, size - 2
        prompts = [[draw.randrange(size - 2) for _ in range(draw.randint(1, 5))] for _ in range(draw.randint(1, 4))]
        ids, mask = padded(prompts)
        most, refill, minimum = draw.randint(1, 7), draw.random() < 0.5, draw.choice([0, 0, 2])
        found = safe_beam_search(
            model, ids, tag, k, n, most, mask, discard_fraction=fraction, refill=refill, min_new_tokens=minimum,
            num_return_sequences=1, look_ahead=draw.choice(["rows", "tree"]),
        )  # fmt: skip
        for row, prompt in enumerate(prompts):
            text, log_p, risks = search(model, prompt, tag, end, k, n, most, fraction, refill, minimum=minimum)[0]
            assert generated(found, ids.shape[1], row) == text, (seed, k, n, most, refill)
            assert float(found.log_probs[row]) == log_p
            assert found.risks[row, : len(text)].tolist() == risks
            assert found.sequences[row, ids.shape[1] + len(text) :].eq(0).all()
            ended.add(text[-1] == end)
            assert tag not in text
    assert ended == {True, False}


def test_ties_are_in_the_random_cases():
    """The tables repeat, so equal risks and equal probabilities occur: else the order at ties would not be tested."""
    logits_of = drawn_logits(3, 6, 2)
    rows = {tuple(logits_of((0, 1, token)).tolist()) for token in range(6)}
    assert len(rows) == 2 and any(len(set(row)) < len(row) for row in rows)


def tiny_llama(seed, vocabulary=40, end=3):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, eos_token_id=end, bos_token_id=None, pad_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(60)
    return model.double()


def test_equals_transformers_beams_when_nothing_is_discarded():
    draw, finished = random.Random(0), 0
    for seed in range(8):
        model = tiny_llama(seed)
        prompts = [[draw.randrange(4, 39) for _ in range(draw.randint(1, 6))] for _ in range(3)]
        ids, mask = padded(prompts)
        for beams in (1, 3, 4):
            settings = {
                "early_stopping": draw.choice([True, False, "never"]),
                "length_penalty": draw.choice([0.0, 1.0, -0.5, 2.0]),
            }
            count = draw.randint(1, beams)
            expected = model.generate(
                ids, attention_mask=mask, num_beams=beams, max_new_tokens=12, do_sample=False, suppress_tokens=[39],
                num_return_sequences=count, return_dict_in_generate=True, output_scores=True, min_new_tokens=2, **settings,
            )  # fmt: skip
            found = safe_beam_search(
                model, ids, 39, beams, beams + 1, 12, mask, discard_fraction=0.0, refill=True, min_new_tokens=2,
                num_return_sequences=count, **settings,
            )  # fmt: skip
            if beams == 1:  # transformers decodes one beam greedily
                greedy = safe_beam_search(model, ids, 39, 1, 1, 12, mask, min_new_tokens=2)
                assert torch.equal(expected.sequences, greedy.sequences)
                continue
            assert torch.equal(expected.sequences, found.sequences), (seed, beams, settings)
            assert torch.allclose(expected.sequences_scores.double(), found.scores.double(), atol=1e-5)
            finished += int((found.lengths < 12).sum())
    assert finished > 10


def test_through_generate():
    from decoding.transformers_generate import safe_generate

    model = tiny_llama(1)
    ids, mask = padded([[5, 6, 7, 8], [9, 10]])
    common = {"attention_mask": mask, "custom_generate": safe_generate, "tag_token_id": 39, "max_new_tokens": 9}
    by_generate = model.generate(
        ids, num_beams=2, candidates_per_beam=5, length_penalty=0.7, num_return_sequences=2, do_sample=False, **common
    )
    by_function = safe_beam_search(
        model, ids, 39, 2, 5, 9, mask, length_penalty=0.7, early_stopping=False, num_return_sequences=2
    )
    assert torch.equal(by_generate, by_function.sequences)
    beams = model.generate(
        ids, num_beams=3, candidates_per_beam=4, discard_fraction=0.0, refill=True, do_sample=False, **common
    )
    plain = model.generate(
        ids, attention_mask=mask, num_beams=3, max_new_tokens=9, do_sample=False, suppress_tokens=[39]
    )
    assert torch.equal(beams, plain)
    sampled = model.generate(ids, do_sample=True, num_beams=1, return_dict_in_generate=True, **common)
    assert sampled.sequences.shape[0] == 2 and not sampled.sequences.eq(39).any() and sampled.risks.shape[1] <= 9


@pytest.mark.parametrize(
    ("beams", "refill", "sampled"), [(1, False, False), (1, True, False), (3, True, False), (1, False, True)]
)
def test_a_streamer_gets_the_whole_answer_through_generate(beams, refill, sampled):
    from decoding.transformers_generate import safe_generate

    class Streamer:
        def __init__(self):
            self.got, self.ended = [], False

        def put(self, value):
            self.got += value.flatten().tolist()

        def end(self):
            self.ended = True

    for seed in range(1, 4):
        model, streamer = tiny_llama(seed), Streamer()
        out = model.generate(
            torch.tensor([[5, 6, 7]]), custom_generate=safe_generate, tag_token_id=39, max_new_tokens=9, num_beams=beams,
            candidates_per_beam=6, refill=refill, do_sample=sampled, token_streamer=streamer,
        )  # fmt: skip
        assert streamer.got == out[0].tolist() and streamer.ended
    with pytest.raises(RecipeError, match="one answer to one prompt"):
        model.generate(
            torch.tensor([[5, 6, 7], [8, 9, 10]]), custom_generate=safe_generate, tag_token_id=39, max_new_tokens=2,
            num_beams=beams, candidates_per_beam=6, do_sample=sampled, token_streamer=Streamer(),
        )  # fmt: skip


def test_rows_and_tree_and_one_by_one_are_equal():
    model = tiny_llama(2)
    prompts = [[4, 5, 6, 7, 8, 9, 10], [11], [12, 13, 14]]
    ids, mask = padded(prompts)
    results = [safe_beam_search(model, ids, 39, 3, 6, 10, mask, look_ahead=way) for way in ("rows", "tree")]
    assert torch.equal(results[0].sequences, results[1].sequences)
    assert torch.allclose(results[0].risks, results[1].risks, atol=1e-6, equal_nan=True)
    for row, prompt in enumerate(prompts):
        alone = safe_beam_search(model, torch.tensor([prompt]), 39, 3, 6, 10)
        assert generated(alone, len(prompt)) == generated(results[0], 7, row)
        assert float(alone.scores[0]) == pytest.approx(float(results[0].scores[row]), abs=1e-5)


def even_logits(seed, size, tag):
    """Logits of many rows with one and the same P(tag), to the bit."""
    rows = drawn_logits(seed, size, 1)(()).repeat(200, 1)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.cat([row[torch.randperm(tag, generator=generator)], row[tag:]]) for row in rows])
    chances = rows.log_softmax(-1)[:, tag]
    rows = rows[chances == chances[0]]
    assert len(rows) > 20
    return lambda ids: rows[hash((seed, *ids)) % len(rows)]


def test_identities_of_the_filter():
    """B2, B4, B5, B6 and B7 of the sheet, on random toys."""
    size, tag, end = 8, 7, 6

    def rooted_risk(log_probs):
        return float(log_probs[tag].double().mul(0.5).exp() - 7)

    for seed in range(60):
        logits_of = drawn_logits(seed, size, 40)
        model = ToyModel(logits_of, size, end)
        prompt = [seed % 6]
        ids = torch.tensor([prompt])

        even = ToyModel(even_logits(seed, size, tag), size, end)
        one = safe_beam_search(even, ids, tag, 2, 3, 5)
        assert generated(one, 1) == generated(safe_beam_search(even, ids, tag, 2, 3, 5, discard_fraction=0.0), 1), seed
        greedy = generated(safe_beam_search(model, ids, tag, 1, 1, 4), 1)
        assert greedy == search(model, prompt, tag, end, 1, 1, 4, fraction=0.0)[0][0]
        risky = search(model, prompt, tag, end, 2, 4, 5)[0]
        rooted = search(model, prompt, tag, end, 2, 4, 5, risk_of=rooted_risk)[0]
        assert risky[0] == rooted[0] and tag not in risky[0]
    risks, log_probs = [0.3, 0.1, 0.3, 0.2, 0.1], [-1.0, -2.0, -1.5, -3.0, -0.5]
    kept = discard_riskiest(risks, log_probs, 0.5)
    assert kept == [1, 3, 4]
    assert max(risks[i] for i in kept) <= min(risks[i] for i in {0, 1, 2, 3, 4} - set(kept))
    assert discard_riskiest([0.5, 0.5], [-1.0, -1.0], 0.5) == [0]  # of equals the later goes
    assert discard_riskiest([0.5], [-1.0], 0.9) == [0]  # one is always left


def test_boundary_risk():
    """B10, and the example of the sheet's section 5: mid-word against a full word, the published order turned round."""
    p, unsafe, y_unsafe, y_safe = 0.05, 0.3, 0.8, 0.3
    for text in (1, 2):
        weight = unsafe * (1 - p) ** (text - 1) * y_unsafe**text
        posterior = weight / (weight + (1 - unsafe) * y_safe**text)
        # the tag process: p where the text is unsafe, a new word of the two types else
        tag = p * posterior
        row = torch.tensor([[tag, (1 - tag) * 0.4, (1 - tag) * 0.6]]).log()
        assert float(boundary_risk(row, 0, torch.tensor([1, 2])) / p) == pytest.approx(posterior, abs=1e-5)
    assert posterior == pytest.approx(0.743276, abs=1e-6)
    rows = torch.tensor([[0.001, 0.020, 0.979], [0.004, 0.900, 0.096]]).log()
    corrected = boundary_risk(rows, 0, torch.tensor([1])) / 0.05
    assert corrected.tolist() == pytest.approx([0.952, 0.088], abs=1e-3)
    assert rows[0, 0] < rows[1, 0] and corrected[0] > corrected[1]
    nothing = torch.tensor([[float("-inf"), float("-inf"), 0.0]])
    assert boundary_risk(nothing, 0, torch.tensor([1])).tolist() == [0.0]


def test_boundary_risk_in_the_search():
    size, tag, end, starts = 8, 7, 6, [0, 2, 4]

    def risk_of(log_probs):
        chosen = log_probs[starts].logsumexp(-1).logaddexp(log_probs[tag])
        return float((log_probs[tag] - chosen).exp())

    differ = 0
    for seed in range(20):
        model = ToyModel(drawn_logits(seed, size, 30), size, end)
        given = [*starts, tag, end]  # the tag and an end token never count as word starts
        found = safe_beam_search(model, torch.tensor([[1]]), tag, 2, 4, 5, risk="boundary", word_start_ids=given)
        assert generated(found, 1) == search(model, [1], tag, end, 2, 4, 5, risk_of=risk_of)[0][0]
        differ += generated(found, 1) != generated(safe_beam_search(model, torch.tensor([[1]]), tag, 2, 4, 5), 1)
    assert differ > 0


def test_a_control_reads_another_token_and_still_writes_it():
    size, tag, end, ordinary = 8, 7, 6, 2
    written = 0
    for seed in range(20):
        model = ToyModel(drawn_logits(seed, size, 30), size, end)
        found = safe_beam_search(model, torch.tensor([[1]]), tag, 2, 4, 5, risk_token_id=ordinary)
        text, _, risks = search(model, [1], tag, end, 2, 4, 5, risk_of=lambda row: float(row[ordinary].exp()))[0]
        assert generated(found, 1) == text and found.risks[0, : len(text)].tolist() == risks
        written += ordinary in text
    assert written > 0


def test_scores_and_candidates():
    assert penalised_score(-6.0, 3, 0.0) == -6.0 and penalised_score(-6.0, 3, 1.0) == -2.0
    assert best_possible_score(-6.0, 3, 12, 1.0, "never") == -0.5
    assert best_possible_score(-6.0, 3, 12, 1.0, False) == best_possible_score(-6.0, 3, 3, 1.0, "never") == -2.0
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0], [5.0, 1.0, 2.0, 4.0, 3.0]])
    assert top_candidates(scores, 2).tolist() == [[1, 2], [0, 3]]
    assert top_candidates(scores, 4).tolist() == [[1, 2, 4, 3], [0, 3, 4, 2]]


def test_stopping_criteria_and_processors():
    from transformers import LogitsProcessorList, StoppingCriteriaList, SuppressTokensLogitsProcessor

    model = tiny_llama(3)
    ids, mask = padded([[5, 6, 7], [8]])
    plain = safe_beam_search(model, ids, 39, 2, 4, 8, mask)
    first = generated(plain, 3)[0]
    without = safe_beam_search(
        model, ids, 39, 2, 4, 8, mask, logits_processor=LogitsProcessorList([SuppressTokensLogitsProcessor([first])])
    )
    assert first not in generated(without, 3)
    assert first not in generated(without, 3, 1)

    def after_five(sequences, scores, **kwargs):
        return torch.full((len(sequences),), sequences.shape[1] >= 3 + 5)

    short = safe_beam_search(model, ids, 39, 2, 4, 8, mask, stopping_criteria=StoppingCriteriaList([after_five]))
    assert short.lengths.max() == 5 and short.sequences.shape[1] == 8


def test_agreed_tokens_are_a_growing_beginning_of_the_result():
    said: dict[int, list[list[int]]] = {0: [], 1: []}
    model = tiny_llama(4)
    ids, mask = padded([[5, 6, 7], [8]])
    found = safe_beam_search(model, ids, 39, 2, 4, 12, mask, on_agreed=lambda row, ids: said[row].append(ids))
    for row, steps in said.items():
        final = generated(found, 3, row)
        assert steps and all(final[: len(part)] == part for part in steps)
        assert [len(part) for part in steps] == sorted(len(part) for part in steps)
    assert any(any(steps) for steps in said.values())


WRONG = [
    ({"num_beams": 3}, RecipeError, "cannot fill 3 beams"),
    ({"discard_fraction": 1.0}, RecipeError, "discard_fraction 1.0"),
    ({"num_return_sequences": 3}, RecipeError, "num_return_sequences 3"),
    ({"risk": "boundary"}, RecipeError, "needs word_start_ids"),
    ({"risk": "other"}, RecipeError, "raw or boundary"),
    ({"max_new_tokens": 0}, RecipeError, "at least 1"),
    ({"temperature": 0.0}, RecipeError, "temperature"),
    ({"look_ahead": "deep"}, RecipeError, "auto, rows or tree"),
    ({"candidates": "all"}, RecipeError, "top or sampled"),
    ({"tag_token_id": 99}, ModelError, "ids from 0 to 39"),
    ({"risk_token_id": 98}, ModelError, "98: the model has ids from 0 to 39"),
    ({"max_new_tokens": 100}, DataError, "exceed the 64 positions"),
    ({"attention_mask": torch.tensor([[1, 1], [0, 0]])}, DataError, "prompt 1 of the batch is empty"),
    ({"attention_mask": torch.tensor([[1, 1], [1, 0]])}, DataError, "prompt 1 of the batch is padded on the right"),
    ({"attention_mask": torch.ones((2, 3), dtype=torch.long)}, DataError, r"shape \[2, 3\]"),
    ({"input_ids": torch.zeros((2, 0), dtype=torch.long)}, DataError, "prompt 0 of the batch is empty"),
    ({"input_ids": torch.tensor([1, 2])}, DataError, "1 dimensions"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_errors(change, error, message):
    arguments = {
        "input_ids": torch.tensor([[4, 5], [6, 7]]),
        "tag_token_id": 39,
        "num_beams": 2,
        "candidates_per_beam": 4,
    }
    with pytest.raises(error, match=message):
        safe_beam_search(tiny_llama(0), **{**arguments, "max_new_tokens": 4, **change})


@pytest.mark.parametrize("penalty", [900.0, -900.0, float("nan"), float("inf")])
def test_a_length_penalty_that_no_number_can_hold(penalty):
    with pytest.raises(RecipeError, match=f"length_penalty {penalty}"):
        SafeBeamOptions(max_new_tokens=64, length_penalty=penalty)
    assert SafeBeamOptions(max_new_tokens=64, length_penalty=-5.0).length_penalty == -5.0


@pytest.mark.parametrize("temperature", [float("nan"), float("inf")])
def test_a_temperature_that_is_no_number(temperature):
    """At an infinite one -inf / inf would be no number, and the tag could be drawn."""
    with pytest.raises(RecipeError, match=f"temperature {temperature}"):
        SafeBeamOptions(max_new_tokens=4, temperature=temperature)


def test_errors_of_models(tmp_path):
    from transformers import AutoTokenizer

    from tests.evaluation.tiny_model import save_tiny_model

    tokenizer = AutoTokenizer.from_pretrained(save_tiny_model(tmp_path))
    with pytest.raises(ModelError, match="was not trained with the harmfulness tag"):
        find_tag_id(tokenizer, "<potentially_unsafe_content>")
    with pytest.raises(ModelError, match="260 ids and the model 40"):
        check_vocabulary(tiny_llama(0), tokenizer)
    assert [tokenizer.decode([i]) for i in word_start_ids(tokenizer)] == ["\t", "\n", "\r", " "]
    model = tiny_llama(0)
    model.generation_config.eos_token_id = None
    with pytest.raises(ModelError, match="names no end token"):
        safe_beam_search(model, torch.tensor([[4]]), 39, 1, 2, 3)
    toy = ToyModel(drawn_logits(0, 4, 3), 4, 2)
    toy.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="needs full attention"):
        safe_beam_search(toy, torch.tensor([[1]]), 3, 1, 2, 3, look_ahead="tree")
    with pytest.raises(ModelError, match="only 1 continuations are possible"):
        from transformers import LogitsProcessorList

        def nothing(ids, scores):
            return torch.full_like(scores, float("-inf"))

        safe_beam_search(toy, torch.tensor([[1]]), 3, 1, 2, 3, logits_processor=LogitsProcessorList([nothing]))
