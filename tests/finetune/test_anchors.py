"""STR's anchors: refusals come along, are compared, are not learnt; which ones does not depend on the batches."""

import json

import pytest
import torch
from pydantic import ValidationError

from finetune.anchors import Anchors, AnchorSettings, read_anchors
from finetune.chat_data import chat_of_row, tokenise_chats
from finetune.errors import FinetuneDataError
from finetune.positions import next_labels
from finetune.reference import FrozenReader, adapter_off_reference
from finetune.reference_cache import CachedReference, keep_reference
from finetune.safety_token_regularization import str_penalty
from finetune.str_training import StrObjective, StrSettings
from finetune.trainer import SupervisedTrainer
from finetune.training import batches, collator
from tests.finetune.tiny_llama import make_tokenizer
from tests.finetune.tiny_runs import adapted_model, arguments, first_update

TOKENIZER = make_tokenizer()
TOKENIZER.pad_token = TOKENIZER.eos_token
IDS = [73, 105, 40]


def chats(prefix, count, answer):
    messages = [
        [{"role": "user", "content": f"{prefix} {n}"}, {"role": "assistant", "content": answer + " No." * (n % 3)}]
        for n in range(count)
    ]
    return [chat_of_row({"id": f"{prefix}-{n}", "messages": m}, "here") for n, m in enumerate(messages)]


LEARNT = tokenise_chats(chats("sum", 16, "It is 4."), TOKENIZER, 100)
REFUSALS = tokenise_chats(chats("harm", 5, "I cannot help with that."), TOKENIZER, 100)
ANCHORS = Anchors(REFUSALS, 0.5, 0)


def model():
    return adapted_model(len(TOKENIZER), moved=True)


def objective(tuned, positions="none", penalty_weight=1.0, **anchors):
    anchored = AnchorSettings(path="refusals", **anchors)
    settings = StrSettings(weight=penalty_weight, positions=positions, anchors=anchored)
    made = StrObjective(settings, IDS)
    made.reference = adapter_off_reference(tuned, made.reading)
    return made


def one_update(tuned, made, folder, micro):
    """(log entry, gradients)."""
    run = SupervisedTrainer(
        model=tuned, args=arguments(folder, micro, 16, max_grad_norm=1e9), train_dataset=ANCHORS.features(LEARNT),
        data_collator=ANCHORS.collator(collator(TOKENIZER), len(LEARNT)), objective=made,
    )  # fmt: skip
    return first_update(run, tuned)


def test_a_share_of_the_rows_brings_one_along_whatever_the_order():
    features = ANCHORS.features(LEARNT)
    brought = {row.id: feature["anchor"] for row, feature in zip(LEARNT, features, strict=True)}
    assert 0 < sum(anchor >= 0 for anchor in brought.values()) < 16 and max(brought.values()) < 5
    turned = ANCHORS.features(LEARNT[::-1])
    assert brought == {row.id: f["anchor"] for row, f in zip(LEARNT[::-1], turned, strict=True)}
    assert all(feature["anchor"] >= 0 for feature in Anchors(REFUSALS, 1.0, 0).features(LEARNT))


def test_refusals_have_no_labels_and_their_first_tokens_are_compared():
    made = objective(model(), first_k=2)
    collate = ANCHORS.collator(collator(TOKENIZER), len(LEARNT))
    features = Anchors(REFUSALS, 1.0, 0).features(LEARNT[:3])
    batch = collate(features)
    assert batch["row"].tolist() == [0, 1, 2, *[16 + feature["anchor"] for feature in features]]
    assert (batch["labels"][3:] == -100).all() and (batch["labels"][:3] != -100).any()
    mask = made.mask(batch)
    assert mask.sum(dim=1).tolist() == [0, 0, 0, 2, 2, 2]
    for place, feature in enumerate(features, 3):
        row = REFUSALS[feature["anchor"]]
        first = next(t for t, label in enumerate(row.labels) if label != -100)
        assert mask[place].nonzero()[:, 0].tolist() == [first - 1, first]
        assert batch["input_ids"][place, : len(row.input_ids)].tolist() == row.input_ids
    whole = objective(model(), positions="response", first_k=None).mask(batch)
    assert torch.equal(whole[:3], next_labels(batch["labels"])[:3] != -100)
    assert torch.equal(whole[3:], next_labels(batch["anchored"])[3:] != -100)


@pytest.mark.parametrize("positions", ["none", "response", "all_nonpad"])
def test_the_logged_parts_are_the_written_formulas_however_the_rows_are_batched(tmp_path, positions):
    tuned = model()
    made = objective(tuned, positions, 0.5, weight=3.0)
    batch = ANCHORS.collator(collator(TOKENIZER), len(LEARNT))(ANCHORS.features(LEARNT))
    with torch.no_grad():
        logits = tuned(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        with tuned.disable_adapter():
            start = tuned(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    mask, rows = made.mask(batch), torch.arange(len(batch["row"]))[:, None]
    learnt, theirs = (
        float(str_penalty(logits, start, IDS, mask & part, num_positions=int(mask.sum())))
        for part in (rows < 16, rows >= 16)
    )
    entropy = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert theirs > 0 and (learnt > 0) == (positions != "none")
    found = []
    for micro in (1, 4, 16):
        tuned = model()
        made.reference = adapter_off_reference(tuned, made.reading)
        found.append(one_update(tuned, made, tmp_path, micro))
    for log, grads in found:
        assert log["cross_entropy"] == pytest.approx(float(entropy), rel=1e-5)
        assert log["str_penalty"] == pytest.approx(learnt, rel=1e-5)
        assert log["anchor_penalty"] == pytest.approx(theirs, rel=1e-5)
        assert log["loss"] == pytest.approx(float(entropy) + 0.5 * (learnt + 3 * theirs), rel=1e-5)
        for name, value in grads.items():
            assert (value - found[0][1][name]).norm() <= 1e-5 * value.norm(), name


def test_kept_values_hold_the_refusals_too(tmp_path):
    tuned = model()
    made = objective(tuned, "response")

    def targets(batch, mask):
        return torch.nn.functional.pad(batch["input_ids"][:, 1:], (0, 1))[mask]

    everything = batches(LEARNT, TOKENIZER, 3, "cpu", ANCHORS)
    keep_reference(tmp_path, {}, FrozenReader(tuned, made.reading), everything, made.mask, targets, "float32")
    batch = ANCHORS.collator(collator(TOKENIZER), len(LEARNT))(ANCHORS.features(LEARNT)[:6])
    mask = made.mask(batch)
    online = made.reference.values(batch, mask, targets(batch, mask))
    cached = CachedReference(tmp_path, {}).values(batch, mask, targets(batch, mask))
    assert (batch["row"] >= 16).any() and torch.allclose(online, cached, atol=1e-6)


def test_bad_settings_and_files_are_told(tmp_path):
    with pytest.raises(ValidationError, match="positions none compares nothing: add anchors"):
        StrSettings(positions="none")
    with pytest.raises(FinetuneDataError, match="cannot be read"):
        read_anchors(AnchorSettings(path=tmp_path / "none.jsonl"), TOKENIZER, 100, 0)
    path = tmp_path / "refusals.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Why?"}]}) + "\n")
    with pytest.raises(FinetuneDataError, match="line 1: the last turn is the user's"):
        read_anchors(AnchorSettings(path=path), TOKENIZER, 100, 0)
