"""STR in the trainer: at the start it adds nothing, references agree, batches may be split, states are put back."""

import copy

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import Gemma2Config, Gemma2ForCausalLM

from finetune.chat_data import chat_of_row, tokenise_chats
from finetune.errors import FinetuneModelError, ReferenceCacheError
from finetune.loading import LoraSettings, add_lora
from finetune.reference import FrozenReader, adapter_off_reference, frozen_copy_reference, plain_head
from finetune.reference_cache import CachedReference, keep_reference
from finetune.str_training import StrObjective, StrSettings
from finetune.trainer import SupervisedTrainer, mean_cross_entropy
from finetune.training import batches, collator, features
from tests.finetune.tiny_llama import make_model, make_tokenizer
from tests.finetune.tiny_runs import adapted_model, arguments, first_update

TOKENIZER = make_tokenizer()
TOKENIZER.pad_token = TOKENIZER.eos_token
IDS = [73, 105, 40]
SPACES = ("raw", "logprob", "centered", "mass")


def rows(count=8):
    # answers of different lengths, one chat with two turns
    def chat(number):
        messages = [
            {"role": "user", "content": f"What is {number} plus {number}?"},
            {"role": "assistant", "content": f"It is {2 * number}." + " Sure!" * (number % 4)},
        ]
        more = [{"role": "user", "content": "And?"}, {"role": "assistant", "content": "No more."}]
        return chat_of_row({"messages": messages + (more if number == 3 else [])}, "here")

    return tokenise_chats([chat(number) for number in range(count)], TOKENIZER, 100)


def model(seed=0, lora=True, moved=False, **settings):
    """A tiny model; `moved`: its adapter does something."""
    if not lora:
        return make_model(len(TOKENIZER), seed, **settings)
    return adapted_model(len(TOKENIZER), seed, moved, **settings)


def objective(tuned, reference=adapter_off_reference, **settings):
    made = StrObjective(StrSettings(**settings), IDS)
    made.reference = reference(tuned, made.reading)
    return made


def trainer(tuned, made, folder, micro=4, whole=8, steps=1, lr=1e-2, **settings):
    return SupervisedTrainer(
        model=tuned, args=arguments(folder, micro, whole, steps, lr, **settings), train_dataset=features(rows()),
        data_collator=collator(TOKENIZER), objective=made,
    )  # fmt: skip


def one_update(tuned, made, folder, **settings):
    """(log entry, gradients at the first update, weights after it)."""
    log, grads = first_update(trainer(tuned, made, folder, max_grad_norm=1e9, **settings), tuned)
    return log, grads, {n: p.detach().clone() for n, p in tuned.named_parameters()}


def same(first, second):
    assert first.keys() == second.keys() and first
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("space", SPACES)
def test_u1_at_the_start_the_term_is_zero_and_gradients_are_those_of_plain_tuning(tmp_path, space):
    plain = one_update(model(), None, tmp_path)
    tuned = model()
    log, grads, weights = one_update(tuned, objective(tuned, space=space, weight=10.0), tmp_path)
    assert log["str_penalty"] == 0.0 and log["cross_entropy"] == plain[0]["cross_entropy"]
    assert same(grads, plain[1]) and same(weights, plain[2])


@pytest.mark.parametrize("lora", [True, False])
def test_u2_a_weight_of_zero_repeats_plain_tuning_bit_for_bit_and_still_measures(tmp_path, lora):
    plain, tuned = model(lora=lora), model(lora=lora)
    trainer(plain, None, tmp_path, steps=4).train()
    reference = adapter_off_reference if lora else frozen_copy_reference
    run = trainer(tuned, objective(tuned, reference, weight=0.0), tmp_path, steps=4)
    run.train()
    assert same(dict(plain.named_parameters()), dict(tuned.named_parameters()))
    measured = [entry["str_penalty"] for entry in run.state.log_history if "loss" in entry]
    assert measured[0] == 0 and measured[-1] > 0


@pytest.mark.parametrize(
    "settings", [{}, {"space": "mass"}, {"positions": "all_nonpad"}, {"positions": "first_k", "first_k": 2}]
)
def test_u5_one_by_eight_equals_two_by_four_equals_eight(tmp_path, settings):
    found = []
    for micro in (1, 4, 8):
        tuned = model(moved=True)
        found.append(one_update(tuned, objective(tuned, weight=1.0, **settings), tmp_path, micro=micro))
    for log, grads, _ in found[1:]:
        assert log["str_penalty"] == pytest.approx(found[0][0]["str_penalty"], rel=1e-5)
        assert log["cross_entropy"] == pytest.approx(found[0][0]["cross_entropy"], rel=1e-5)
        assert log["loss"] == pytest.approx(log["cross_entropy"] + log["str_penalty"], rel=1e-5)
        for name, value in grads.items():
            assert (value - found[0][1][name]).norm() <= 1e-5 * value.norm(), name


def test_the_logged_parts_are_the_written_formulas(tmp_path):
    from finetune.safety_token_regularization import str_penalty

    tuned = model(moved=True)
    made = objective(tuned, space="centered", positions="all_nonpad", weight=0.5)
    whole = next(iter(batches(rows(), TOKENIZER, 8, "cpu")))
    with torch.no_grad():
        logits = tuned(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"]).logits
        with tuned.disable_adapter():
            start = tuned(input_ids=whole["input_ids"], attention_mask=whole["attention_mask"]).logits
    expected = str_penalty(logits, start, IDS, made.mask(whole), space="centered")
    entropy = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), whole["labels"][:, 1:].flatten())
    log, _, _ = one_update(tuned, made, tmp_path)
    assert log["str_penalty"] == pytest.approx(float(expected), rel=1e-5)
    assert log["cross_entropy"] == pytest.approx(float(entropy), rel=1e-5)
    assert log["loss"] == pytest.approx(float(entropy + 0.5 * expected), rel=1e-5)
    untouched = model(moved=True)
    assert mean_cross_entropy(untouched, [whole]) == pytest.approx(float(entropy), rel=1e-5)


def kept(folder, tuned, made, precision="float32", identity=None):
    def targets(batch, mask):
        return torch.nn.functional.pad(batch["input_ids"][:, 1:], (0, 1))[mask]

    identity = identity or {"rows": "a"}
    keep_reference(
        folder,
        identity,
        FrozenReader(tuned, made.reading),
        batches(rows(), TOKENIZER, 3, "cpu"),
        made.mask,
        targets,
        precision,
    )
    return CachedReference(folder, identity)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("float16", 1e-3)])
def test_u6_kept_values_equal_online_ones(tmp_path, space, precision, tolerance):
    tuned = model(moved=True)
    made = objective(tuned, space=space)
    reference = kept(tmp_path, tuned, made, precision)
    for batch in batches(rows()[::-1][:5], TOKENIZER, 2, "cpu"):
        batch = {**batch, "row": len(rows()) - 1 - batch["row"]}
        mask = made.mask(batch)
        targets = torch.nn.functional.pad(batch["input_ids"][:, 1:], (0, 1))[mask]
        online, cached = made.reference.values(batch, mask, targets), reference.values(batch, mask, targets)
        scale = online.abs().max().clamp(min=1)
        assert cached.dtype == torch.float32 and (cached - online).abs().max() <= tolerance * scale


def test_a_run_on_kept_values_is_the_run_on_online_ones(tmp_path):
    found = []
    for cached in (False, True):
        tuned = model()
        made = objective(tuned, weight=1.0)
        if cached:
            made.reference = kept(tmp_path, tuned, made)
        run = trainer(tuned, made, tmp_path / "run", steps=5)
        run.train()
        found.append([entry["str_penalty"] for entry in run.state.log_history if "loss" in entry])
    assert found[0] == pytest.approx(found[1], rel=1e-3, abs=1e-9) and found[0][-1] > 0


def test_kept_values_of_something_else_are_refused(tmp_path):
    tuned = model()
    made = objective(tuned)
    reference = kept(tmp_path, tuned, made, identity={"rows": "a", "tokens": [1, 2]})
    with pytest.raises(ReferenceCacheError, match=r"another run \(tokens: \[1, 2\] kept, \[1, 3\] now\): delete it"):
        CachedReference(tmp_path, {"rows": "a", "tokens": [1, 3]})
    batch = dict(next(iter(batches(rows(), TOKENIZER, 2, "cpu"))))
    mask = made.mask(batch)
    mask[0] = False
    with pytest.raises(ReferenceCacheError, match=r"has 0 compared positions, \d+ are kept"):
        reference.values(batch, mask, None)
    (tmp_path / "reference.json").write_text("{")
    with pytest.raises(ReferenceCacheError, match="cannot be read"):
        CachedReference(tmp_path, {})


def test_u7_the_reference_takes_no_gradient_and_leaves_everything_as_it_found_it():
    tuned = model(moved=True, attention_dropout=0.3)
    tuned.train()
    tuned.base_model.model.model.layers[1].eval()  # flags need not be equal
    made = objective(tuned)
    batch = next(iter(batches(rows(), TOKENIZER, 4, "cpu")))
    mask = made.mask(batch)
    flags = [module.training for module in tuned.modules()]
    first, second = (made.reference.values(batch, mask, None) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad  # no dropout
    with torch.no_grad(), tuned.disable_adapter():
        tuned.eval()
        plain = tuned(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[mask][:, IDS]
        for module, flag in zip(tuned.modules(), flags, strict=True):
            module.training = flag
    assert torch.allclose(first, plain, atol=1e-5)

    def fail(*_):
        raise RuntimeError("in the middle")

    hook = tuned.base_model.model.model.layers[0].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        made.reference.values(batch, mask, None)
    hook.remove()
    assert [module.training for module in tuned.modules()] == flags
    adapters = [module for module in tuned.modules() if isinstance(module, BaseTunerLayer)]
    assert adapters and not any(module.disable_adapters for module in adapters)
    assert all(p.requires_grad == ("lora_" in name) for name, p in tuned.named_parameters())


def test_u9_without_an_adapter_that_can_be_switched_off_there_is_no_online_reference():
    with pytest.raises(FinetuneModelError, match="needs a LoRA adapter that can be switched off"):
        objective(model(lora=False))
    merged = model(moved=True)
    merged.merge_adapter()
    with pytest.raises(FinetuneModelError, match="merged into the weights"):
        objective(merged)


def test_full_tuning_compares_with_a_frozen_copy(tmp_path):
    tuned = model(lora=False)
    start = copy.deepcopy(tuned)
    made = objective(tuned, frozen_copy_reference, weight=1.0)
    run = trainer(tuned, made, tmp_path, steps=3)
    run.train()
    values = [entry["str_penalty"] for entry in run.state.log_history if "loss" in entry]
    assert values[0] == 0 and values[-1] > 0
    batch = next(iter(batches(rows(), TOKENIZER, 4, "cpu")))
    mask = made.mask(batch)
    ours, theirs = made.reference.values(batch, mask, None), FrozenReader(start, made.reading).values(batch, mask, None)
    assert torch.equal(ours, theirs)


def test_a_head_with_a_soft_cap_is_read_through_the_models_own_forward(tmp_path):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.05, pad_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    capped = Gemma2ForCausalLM(config).eval()
    assert plain_head(capped) is None and plain_head(model(lora=False)) is not None
    tuned = add_lora(capped, LoraSettings(rank=2), 0)
    made = objective(tuned, weight=1.0)
    batch = next(iter(batches(rows(), TOKENIZER, 4, "cpu")))
    mask = made.mask(batch)
    with torch.no_grad():
        own = tuned(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[mask][:, IDS]
    found = made.reference.values(batch, mask, None)
    assert torch.allclose(found, own, atol=1e-6) and found.abs().max() <= 0.05
    log, _, _ = one_update(tuned, made, tmp_path)
    assert log["str_penalty"] == 0
