"""Trains all shipped weights: adapter, heads, fastText models, and the thresholds that make levels of probabilities.

Several fine-tunings differ in their seed alone (order of the rows, dropout) and leave out the same labelled texts. Their
average is what is stored, so its predictions for the texts that none of them saw are what the thresholds are set on: a
single model of them is less sure, and thresholds set on it would not fit the average.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from classifiers.adapter import SHIPPED_ADAPTER
from classifiers.decision import DECISION_FILE, Decision
from classifiers.embedding import SHIPPED_HEAD
from classifiers.encoder import EMBEDDED_ENCODER, Encoder
from classifiers.errors import DataError
from classifiers.fasttext_classifier import SHIPPED_WEIGHTS, FastTextClassifier
from classifiers.measures import confusion_matrix, macro_f1, precision_at, recall_at
from classifiers.training.averaging import average_adapters, average_heads
from classifiers.training.encoder_training import (
    FineTuned,
    document_probabilities,
    finetune,
    save_adapter,
    save_heads,
)
from classifiers.training.fasttext_training import train_fasttext, write_decision
from classifiers.training.finetuning import Finetuning
from classifiers.training.head_training import fit_never_train
from classifiers.training.labels import LabelledText
from classifiers.training.thresholds import Goal, set_thresholds
from classifiers.training.worker_pool import worker_pool

PARTS, HELD_PARTS = 6, 1  # of the labelled texts; no seed trains on the last one, and the thresholds are set on it


@dataclass(frozen=True)
class Plan:
    """What to train. `unsafe_weight` is the paper's lambda: weight of the rows of levels 1-5 in the loss, against 1."""

    encoder: str = EMBEDDED_ENCODER
    seeds: tuple[int, ...] = (0, 1, 2)
    unsafe_weight: float = 1.0
    finetuning: Finetuning = field(default_factory=Finetuning)
    goal: Goal = field(default_factory=Goal)
    processes: int = 1

    def __post_init__(self) -> None:
        if not 1 <= len(set(self.seeds)) == len(self.seeds):
            raise DataError(f"seeds {self.seeds}: expected at least one, each of them once")


def is_held_out(text: str) -> bool:
    """Whether a labelled text is one that the thresholds are set on: from its sha256, whatever the order of the files."""
    return part_of(text) >= PARTS - HELD_PARTS


def part_of(text: str) -> int:
    """Which of the parts a text belongs to: from its sha256, whatever the order of the files."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") % PARTS


def train_all(
    rows: list[LabelledText], extra: list[LabelledText], folder: Path, plan: Plan, report: Callable[[str], None]
) -> dict[str, Decision]:
    """Writes `fasttext/` and `embedding/` (adapter, heads) under the folder; returns the thresholds of both.

    `rows` are texts like those that will be scored: a sixth of them is held out for the thresholds. `extra` is trained on
    always and never measured on. A seed that is already in `folder/seeds`, from the same rows and plan, is not trained
    again. Raises DataError where there are too few rows to hold any out.
    """
    held = [row for row in rows if is_held_out(row.text)]
    kept = [row for row in rows if not is_held_out(row.text)]
    if not held or not kept:
        raise DataError(f"{len(rows)} labelled rows: too few to hold a sixth of them out for the thresholds; give more")
    report(f"{len(kept)} + {len(extra)} texts to train on, {len(held)} held out for the thresholds")
    fine_tuned = _fine_tune_seeds([*kept, *extra], folder / "seeds", plan, report)
    embedding = folder / SHIPPED_HEAD.parent.name
    average = _average(fine_tuned, embedding, plan.encoder)
    report("fastText: one model without the held-out texts, one of everything")
    texts = [row.text for row in held]
    predicted = {
        "embedding": document_probabilities(average.encoder.embed(texts), average.heads),
        "fasttext": _fasttext_probabilities([*kept, *extra], texts),
    }
    true = np.array([row.score for row in held])
    decisions = set_thresholds(predicted, true, plan.goal)
    train_fasttext([*rows, *extra], folder / SHIPPED_WEIGHTS.name)
    alone = set_thresholds({"fasttext": predicted["fasttext"]}, true, plan.goal)["fasttext"]
    write_decision(decisions["fasttext"], alone, folder / SHIPPED_WEIGHTS.name / DECISION_FILE)
    heads = average.heads | fit_never_train([*rows, *extra], average.encoder)
    save_heads(heads, embedding / SHIPPED_HEAD.name, average.encoder, average.adapter, decisions["embedding"])
    for name, decision in decisions.items():
        report(f"{name}: thresholds {', '.join(f'{value:g}' for value in decision.thresholds)}")
    report(_reached(decisions, predicted, true))
    return decisions


def seed_file(folder: Path, rows: list[LabelledText], plan: Plan, seed: int) -> Path:
    """Where a seed's model is kept: its name is a hash of the rows that it is trained on and of how."""
    trained_from = [repr(plan.finetuning), plan.encoder, plan.unsafe_weight, repr(rows)]
    digest = hashlib.sha256(json.dumps(trained_from).encode()).hexdigest()[:16]
    return folder / f"{digest}-{seed}.safetensors"


def _fine_tune_seeds(
    rows: list[LabelledText], folder: Path, plan: Plan, report: Callable[[str], None]
) -> list[FineTuned]:
    folder.mkdir(parents=True, exist_ok=True)
    with worker_pool(plan.processes) as pool:
        futures = []
        for seed in plan.seeds:
            target = seed_file(folder, rows, plan, seed)
            report(f"seed {seed}: progress in {target.stem}.log")
            settings = replace(plan.finetuning, seed=seed)
            futures.append(pool.submit(finetune, target, rows, plan.encoder, plan.unsafe_weight, settings))
        return [future.result() for future in futures]


@dataclass(frozen=True)
class _Average:
    """The averaged model: its encoder, with the adapter's file merged (None: a frozen encoder), and its heads."""

    encoder: Encoder
    adapter: Path | None
    heads: dict[str, np.ndarray]


def _average(fine_tuned: list[FineTuned], folder: Path, encoder: str) -> _Average:
    adapter = None
    if fine_tuned[0].adapter:
        adapter = folder / SHIPPED_ADAPTER.name
        save_adapter(average_adapters([result.adapter for result in fine_tuned]), adapter, Encoder(encoder))
    return _Average(Encoder(encoder, adapter=adapter), adapter, average_heads([result.heads for result in fine_tuned]))


def _fasttext_probabilities(rows: list[LabelledText], texts: list[str]) -> np.ndarray:
    """Probabilities [texts, 6] by a fastText model that is trained on `rows` alone."""
    with tempfile.TemporaryDirectory() as scratch:
        train_fasttext(rows, Path(scratch))
        median = Decision((0.5,) * 5)  # of no importance: probabilities are what is asked for
        write_decision(median, median, Path(scratch) / DECISION_FILE)
        scores = FastTextClassifier.load(Path(scratch)).score(texts)
    return np.array([score.probabilities for score in scores])


def _reached(decisions: dict[str, Decision], predicted: dict[str, np.ndarray], true: np.ndarray) -> str:
    levels = np.maximum.reduce([decision.levels(predicted[name]) for name, decision in decisions.items()])
    confusion = confusion_matrix(true.tolist(), levels.tolist())
    values = [f"macro F1 {float(macro_f1(confusion)):.3f}"]
    for level in (1, 3):
        values.append(f"recall@{level} {float(recall_at(confusion, level)):.3f}")
        values.append(f"precision@{level} {float(precision_at(confusion, level)):.3f}")
    return f"ensemble on the held-out texts, which the thresholds were set on: {', '.join(values)}"
