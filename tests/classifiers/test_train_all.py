"""The whole training on a few made-up rows: whom the thresholds are set on, and what a second run does again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from classifiers.decision import DECISION_FILE
from classifiers.embedding import EmbeddingClassifier, read_head_facts
from classifiers.errors import DataError
from classifiers.fasttext_classifier import FastTextClassifier
from classifiers.training.finetuning import Finetuning
from classifiers.training.labels import LabelledText
from classifiers.training.thresholds import Goal, set_thresholds
from classifiers.training.train import Plan, is_held_out, train_all

# Quantisation needs 256 known words: neutral ones that every class holds alike (no digits, which are masked).
FILLER = [f"w{first}{second}" for first in "abcdefghijklmnopqrst" for second in "abcdefghijklmn"]
TEXTS = {0: "bread butter jam and a nice walk in the garden", 4: "they sell stolen cars and forged papers"}
ROWS = [  # every fifth label is wrong, so that thresholds have something to weigh
    LabelledText(
        f"{TEXTS[wording]} {FILLER[number]} {FILLER[-number]} {' '.join(FILLER[number % 14 :: 14])}",
        score,
        "non_violent_crimes" if score else "none",
        "made up",
    )
    for number in range(110)
    for wording in TEXTS
    for score in (wording if number % 5 else 4 - wording,)
]
EXTRA = [LabelledText(f"a quiet day {' '.join(FILLER[::20])}", 0, "none", "made up")]
PLAN = Plan(seeds=(0, 1), finetuning=Finetuning(layers=1, rank=2, epochs=1, longest=16))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    said: list[str] = []
    return folder, train_all(ROWS, EXTRA, folder, PLAN, said.append), said


def test_thresholds_are_those_of_the_stored_average_on_texts_that_no_seed_saw(trained):
    folder, decisions, said = trained
    held = [row for row in ROWS if is_held_out(row.text)]
    assert f"{len(ROWS) - len(held)} + 1 texts to train on, {len(held)} held out" in said[0]
    stored = EmbeddingClassifier.load(head=folder / "embedding" / "minilm_head.safetensors")
    predicted = np.array([score.probabilities for score in stored.score([row.text for row in held])])
    true = np.array([row.score for row in held])
    assert (true == 4).sum() >= 30, "too few to move a threshold"
    # fastText starts where it hardly speaks, so the embedding's thresholds are found as if it were alone
    assert set_thresholds({"embedding": predicted}, true, Goal())["embedding"] == decisions["embedding"]
    assert read_head_facts(folder / "embedding" / "minilm_head.safetensors").decision == decisions["embedding"]
    written = json.loads((folder / "fasttext" / DECISION_FILE).read_text())
    assert tuple(written["with_others"]) == decisions["fasttext"].thresholds
    assert decisions["embedding"].thresholds != (0.5,) * 5
    assert said[-1].startswith("ensemble on the held-out texts") and "recall@1" in said[-1]


def test_what_was_trained_scores(trained):
    folder, _, _ = trained
    texts = ["bread butter jam and a nice walk", "they sell stolen cars and forged papers"]
    embedding = EmbeddingClassifier.load(head=folder / "embedding" / "minilm_head.safetensors")
    for classifier in (embedding, FastTextClassifier.load(folder / "fasttext", alone=True)):
        safe, unsafe = classifier.score(texts)
        assert safe.score == 0 < unsafe.score


def test_finished_seeds_stay_unless_a_row_that_they_saw_changes(trained):
    folder, _, _ = trained

    def seeds() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (folder / "seeds").glob("*.safetensors")}

    before = seeds()
    assert len(before) == 2
    one = replace(PLAN, seeds=(0,), processes=1)
    held = next(index for index, row in enumerate(ROWS) if row.score == 4 and is_held_out(row.text))
    kept = next(index for index, row in enumerate(ROWS) if row.score == 4 and not is_held_out(row.text))
    for changed, new in ((held, 0), (kept, 1)):
        rows = [replace(row, score=5) if index == changed else row for index, row in enumerate(ROWS)]
        train_all(rows, EXTRA, folder, one, lambda text: None)
        assert seeds().items() >= before.items() and len(seeds()) == len(before) + new


def test_rows_of_which_none_can_be_held_out_are_refused(tmp_path):
    kept = [row for row in ROWS if not is_held_out(row.text)]
    with pytest.raises(DataError, match="labelled rows: too few to hold a third of them out"):
        train_all(kept, EXTRA, tmp_path, PLAN, lambda text: None)
