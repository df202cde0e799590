"""Losses, batches, averages, adapters and thresholds of the encoder's training, without the long run itself."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classifiers.adapter import adapted_sha256, merge_adapter, read_adapter
from classifiers.decision import Decision
from classifiers.errors import DataError, ModelError
from classifiers.training.averaging import average_adapters, average_heads
from classifiers.training.finetuning import (
    Finetuning,
    batches_of,
    multiclass_loss,
    ordinal_loss,
    warmup_then_linear,
)
from classifiers.training.passages import read_passages
from classifiers.training.thresholds import Goal, set_thresholds, utility
from classifiers.training.train import HELD_PARTS, PARTS, Plan, is_held_out, part_of
from classifiers.weights_file import save_weights


def logits_for(level: int, strength: float = 4.0) -> torch.Tensor:
    return torch.eye(6)[[level]] * strength


def test_ordinal_loss_grows_with_the_distance_and_vanishes_with_certainty():
    losses = [float(ordinal_loss(logits_for(level), torch.tensor([0]))) for level in range(6)]
    assert losses == sorted(losses)
    assert float(ordinal_loss(logits_for(2, 40.0), torch.tensor([2]))) < 1e-3
    equal = [float(multiclass_loss(logits_for(level), torch.tensor([0]))) for level in range(1, 6)]
    assert equal == pytest.approx([equal[0]] * 5)


def test_ordinal_loss_is_its_formula():
    logits, level = torch.tensor([[0.3, -0.2, 0.8, 0.1, -1.0, 0.0]]), 2
    probabilities = torch.softmax(logits, 1)[0]
    expected = -0.5 * torch.log(probabilities[level])
    for k in range(1, 6):
        at_least = probabilities[k:].sum()
        expected -= 2 / 5 * torch.log(at_least if level >= k else 1 - at_least)
    assert float(ordinal_loss(logits, torch.tensor([level]))) == pytest.approx(float(expected), rel=1e-5)


@given(st.lists(st.integers(1, 300), min_size=1, max_size=80), st.integers(0, 5))
def test_every_row_is_in_one_batch_of_bounded_size(lengths, seed):
    settings = Finetuning(batch_tokens=600, batch_rows=8)
    batches = batches_of(lengths, settings, np.random.default_rng(seed))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= 8
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 600


def test_learning_rate_rises_then_falls_to_zero():
    factors = [warmup_then_linear(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 6)
    assert max(factors) == factors[5] <= 1.0
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[100] == 0.0


def test_the_average_of_adapters_is_the_average_of_their_updates():
    random = np.random.default_rng(0)
    adapters = [
        {
            "layer.down": random.normal(size=(2, 5)).astype(np.float16),
            "layer.up": random.normal(size=(3, 2)).astype(np.float16),
        }
        for _ in range(3)
    ]
    average = average_adapters(adapters)
    updates = [a["layer.up"].astype(float) @ a["layer.down"].astype(float) for a in adapters]
    found = average["layer.up"].astype(float) @ average["layer.down"].astype(float)
    assert found == pytest.approx(np.mean(updates, axis=0), abs=0.01)
    heads = average_heads([{"w": np.array([1.0, 2.0])}, {"w": np.array([3.0, 6.0])}])
    assert heads["w"].tolist() == [2.0, 4.0]


def test_an_adapter_is_added_to_the_weights_of_its_encoder_only(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    before = model[0].weight.detach().clone()
    down, up = np.ones((1, 4), np.float16), np.array([[1.0], [2.0], [3.0]], np.float16)
    file = tmp_path / "adapter.safetensors"
    save_weights({"0.down": down, "0.up": up}, file, {"encoder": "mine", "encoder_sha256": "abc"})
    merge_adapter(model, read_adapter(file, "abc"), file)
    assert torch.allclose(model[0].weight, before + torch.tensor([[1.0] * 4, [2.0] * 4, [3.0] * 4]))
    assert adapted_sha256("abc", file) != adapted_sha256("abd", file)
    with pytest.raises(ModelError, match="made for the encoder 'mine', not for the one loaded"):
        read_adapter(file, "other")
    with pytest.raises(ModelError, match="no module '0' of shape"):
        merge_adapter(torch.nn.Sequential(torch.nn.Linear(5, 3)), read_adapter(file, "abc"), file)
    with pytest.raises(ModelError, match="no such adapter"):
        read_adapter(tmp_path / "none", "abc")
    save_weights({"0.down": down}, file, {"encoder": "mine", "encoder_sha256": "abc"})
    with pytest.raises(ModelError, match=r"0 has down; expected .down and .up, or .update"):
        read_adapter(file, "abc")


def noisy_probabilities(true: np.ndarray, noise: float, seed: int) -> np.ndarray:
    logits = 3.0 * np.eye(6)[true] + noise * np.random.default_rng(seed).normal(size=(len(true), 6))
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)


def test_thresholds_reach_the_goal_and_are_no_worse_than_where_they_started():
    true = np.random.default_rng(1).integers(0, 6, 300)
    members = {"embedding": noisy_probabilities(true, 1.2, 2), "fasttext": noisy_probabilities(true, 2.5, 3)}
    goal = Goal(precision_1=0.9, precision_3=0.85)
    found = set_thresholds(members, true, goal)

    def value(decisions: dict[str, Decision]) -> float:
        levels = [decisions[name].levels(members[name]) for name in members]
        return utility(true, np.maximum.reduce(levels), goal)

    start = {"embedding": Decision((0.5,) * 5), "fasttext": Decision((0.95,) * 5)}
    assert value(found) > value(start)
    given_levels = np.maximum.reduce([found[name].levels(members[name]) for name in members])
    for level, least in ((1, goal.precision_1), (3, goal.precision_3)):
        flagged = given_levels >= level
        assert (true[flagged] >= level).mean() >= least - 0.01


def test_utility_of_a_perfect_answer_is_three():
    true = np.arange(6)
    assert utility(true, true, Goal()) == pytest.approx(3.0)
    assert utility(true, np.full(6, 5), Goal()) < 1.0  # every precision is missed


def test_parts_are_about_equal_and_do_not_depend_on_order():
    parts = [part_of(f"text {number}") for number in range(1200)]
    assert min(np.bincount(parts, minlength=PARTS)) > 120
    assert part_of("text 7") == parts[7]
    held = sum(is_held_out(f"text {number}") for number in range(1200))
    assert held == sum(part >= PARTS - HELD_PARTS for part in parts) and 150 < held < 250
    with pytest.raises(DataError, match=r"seeds \(1, 1\): expected at least one, each of them once"):
        Plan(seeds=(1, 1))


def test_passages_are_cut_where_they_were_labelled_and_nowhere_else(tmp_path):
    text = "Before. The labelled words. After."
    pq.write_table(pa.table({"id": ["d1"], "text": [text]}), tmp_path / "00000.parquet")
    passage = "The labelled words."
    row = {"id": "d1", "start": 8, "end": 27, "score": 0, "category": "none", "source": "web_page"}
    row["sha256"] = hashlib.sha256(passage.encode()).hexdigest()
    labels = tmp_path / "labels.jsonl"
    labels.write_text(json.dumps(row) + "\n")
    assert [found.text for found in read_passages(labels, tmp_path)] == [passage]
    labels.write_text(json.dumps({**row, "start": 9}) + "\n")
    with pytest.raises(DataError, match="does not hold this passage of document d1"):
        read_passages(labels, tmp_path)
    with pytest.raises(DataError, match=r"no .parquet shards"):
        read_passages(labels, tmp_path / "nowhere")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_fine_tuning_learns_and_its_file_gives_the_same_encoder(tmp_path, method):
    from classifiers.encoder import Encoder
    from classifiers.training.encoder_training import document_probabilities, save_adapter
    from classifiers.training.finetuning import Finetuner, TrainingRow

    texts = ["a quiet walk in the park", "I will hurt you badly", "bread with butter", "they beat him up"] * 4
    levels = [0, 5, 0, 3] * 4
    encoder = Encoder()
    heads = {
        "level.weight": np.zeros((6, encoder.size)), "level.bias": np.zeros(6),
        "category.weight": np.zeros((18, encoder.size)), "category.bias": np.zeros(18),
    }  # fmt: skip
    rate = 5e-3 if method == "lora" else 2e-4
    settings = Finetuning(method, layers=1, rank=4, epochs=6, learning_rate=rate, head_learning_rate=2e-2, batch_rows=8)
    finetuner = Finetuner(encoder.model, encoder.pad_id, heads, settings)
    ids = encoder.first_windows(texts, 64)
    said: list[str] = []
    finetuner.train(
        [TrainingRow(row, level, level if level else -1, 1.0) for row, level in zip(ids, levels, strict=True)],
        said.append,
    )
    finetuner.merge()
    vectors = encoder.embed(texts[:4])
    assert document_probabilities(vectors, finetuner.trained_heads()).argmax(axis=1).tolist() == levels[:4]
    file = tmp_path / "adapter.safetensors"
    save_adapter(finetuner.adapter_tensors(), file, Encoder())
    stored, frozen = Encoder(adapter=file).embed(texts[:4]), Encoder().embed(texts[:4])
    assert stored.vectors == pytest.approx(vectors.vectors, abs=2e-3)  # float16
    assert np.abs(frozen.vectors - vectors.vectors).max() > 0.01
