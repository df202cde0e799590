"""Trains all shipped weights: adapter, heads, fastText models, and the thresholds that make levels of probabilities.

Several fine-tunings, each with a seed of its own and without one part of the labelled texts, give two things: predictions
for texts that were not trained on, from which the thresholds are set, and models whose average is what is stored.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from classifiers.adapter import SHIPPED_ADAPTER
from classifiers.decision import DECISION_FILE, Decision
from classifiers.embedding import SHIPPED_HEAD
from classifiers.encoder import EMBEDDED_ENCODER, Encoder
from classifiers.errors import DataError
from classifiers.fasttext_classifier import SHIPPED_WEIGHTS, FastTextClassifier
from classifiers.training.averaging import average_adapters, average_heads
from classifiers.training.encoder_training import FineTuned, finetune, save_adapter, save_heads
from classifiers.training.fasttext_training import train_fasttext, write_decision
from classifiers.training.finetuning import Finetuning
from classifiers.training.head_training import fit_never_train
from classifiers.training.labels import LabelledText
from classifiers.training.thresholds import Goal, set_thresholds

PARTS = 6  # the model of a seed leaves one of them out


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
        if not 1 <= len(set(self.seeds)) == len(self.seeds) <= PARTS:
            raise DataError(f"seeds {self.seeds}: expected 1 to {PARTS} different ones, since each leaves out a part")


def part_of(text: str) -> int:
    """Which of the parts a text belongs to: from its sha256, whatever the order of the files."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") % PARTS


def train_all(
    rows: list[LabelledText], extra: list[LabelledText], folder: Path, plan: Plan, report: Callable[[str], None]
) -> dict[str, Decision]:
    """Writes `fasttext/` and `embedding/` (adapter, heads) under the folder; returns the thresholds of both.

    `rows` are texts like those that will be scored: parts of them are held out in turn. `extra` is trained on always and
    never measured on. A seed that is already in `folder/seeds`, from the same rows and plan, is not trained again.
    """
    held = [[row for row in rows if part_of(row.text) == number] for number in range(len(plan.seeds))]
    fine_tuned = _fine_tune_seeds(rows, extra, folder / "seeds", plan, report)
    report("fastText: one model without each held-out part, one of everything")
    predicted = {
        "embedding": np.concatenate([result.held_probabilities for result in fine_tuned]),
        "fasttext": np.concatenate([_fasttext_held_out(rows, extra, part) for part in held]),
    }
    true = np.array([row.score for part in held for row in part])
    decisions = set_thresholds(predicted, true, plan.goal)
    train_fasttext([*rows, *extra], folder / SHIPPED_WEIGHTS.name)
    alone = set_thresholds({"fasttext": predicted["fasttext"]}, true, plan.goal)["fasttext"]
    write_decision(decisions["fasttext"], alone, folder / SHIPPED_WEIGHTS.name / DECISION_FILE)
    _save_average([*rows, *extra], fine_tuned, folder / SHIPPED_HEAD.parent.name, plan.encoder, decisions["embedding"])
    for name, decision in decisions.items():
        report(f"{name}: thresholds {', '.join(f'{value:g}' for value in decision.thresholds)}")
    return decisions


def _fine_tune_seeds(
    rows: list[LabelledText], extra: list[LabelledText], folder: Path, plan: Plan, report: Callable[[str], None]
) -> list[FineTuned]:
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(
        json.dumps([repr(plan.finetuning), plan.encoder, plan.unsafe_weight, repr(rows), repr(extra)]).encode()
    ).hexdigest()[:16]
    with ProcessPoolExecutor(plan.processes, mp_context=get_context("spawn")) as pool:
        futures = []
        for number, seed in enumerate(plan.seeds):
            target = folder / f"{digest}-{seed}.safetensors"
            held = [row for row in rows if part_of(row.text) == number]
            kept = [row for row in rows if part_of(row.text) != number]
            report(
                f"seed {seed}: {len(kept)} + {len(extra)} texts, {len(held)} held out; progress in {target.stem}.log"
            )
            settings = replace(plan.finetuning, seed=seed)
            futures.append(
                pool.submit(finetune, target, [*kept, *extra], held, plan.encoder, plan.unsafe_weight, settings)
            )
        return [future.result() for future in futures]


def _fasttext_held_out(rows: list[LabelledText], extra: list[LabelledText], held: list[LabelledText]) -> np.ndarray:
    """Probabilities [held rows, 6] of a fastText model that saw all the other rows."""
    left_out = {row.text for row in held}
    with tempfile.TemporaryDirectory() as scratch:
        train_fasttext([row for row in [*rows, *extra] if row.text not in left_out], Path(scratch))
        median = Decision((0.5,) * 5)  # of no importance: probabilities are what is asked for
        write_decision(median, median, Path(scratch) / DECISION_FILE)
        scores = FastTextClassifier.load(Path(scratch)).score([row.text for row in held])
    return np.array([score.probabilities for score in scores])


def _save_average(
    rows: list[LabelledText], fine_tuned: list[FineTuned], folder: Path, encoder: str, decision: Decision
) -> None:
    adapter = None
    if fine_tuned[0].adapter:
        adapter = folder / SHIPPED_ADAPTER.name
        save_adapter(average_adapters([result.adapter for result in fine_tuned]), adapter, Encoder(encoder))
    adapted = Encoder(encoder, adapter=adapter)
    heads = average_heads([result.heads for result in fine_tuned])
    heads |= fit_never_train(rows, adapted)
    save_heads(heads, folder / SHIPPED_HEAD.name, adapted, adapter, decision)
