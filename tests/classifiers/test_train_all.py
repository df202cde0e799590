"""The whole training on a few made-up rows: whom the thresholds are set on, and what a second run does again."""

import json
from dataclasses import replace

import numpy as np
import pytest

from classifiers.decision import DECISION_FILE
from classifiers.embedding import EmbeddingClassifier, read_head_facts
from classifiers.errors import DataError
from classifiers.fasttext_classifier import FastTextClassifier
from classifiers.training.fasttext_training import CATEGORY_SETTINGS, LEVEL_SETTINGS
from classifiers.training.finetuning import Finetuning
from classifiers.training.labels import LabelledText
from classifiers.training.thresholds import Goal, set_thresholds
from classifiers.training.train import Plan, is_held_out, seed_file, train_all

# Quantisation needs 256 known words: neutral ones that every class holds alike (no digits, which are masked).
FILLER = [f"w{first}{second}" for first in "abcdefghijklmnopqrst" for second in "abcdefghijklmn"]
SAFE, UNSAFE, EITHER = "bread and butter in the garden", "they sell stolen cars", "a shop is open on Sunday"


def made_up(number: int, wording: str, unsafe: bool) -> LabelledText:
    words = f"{wording} {FILLER[number]} {' '.join(FILLER[number % 14 :: 14])}"
    return LabelledText(words, 4 if unsafe else 0, "non_violent_crimes" if unsafe else "none", "made up")


ROWS = [  # two in five of a third wording are unsafe: worth finding, but not at even odds
    *(made_up(number, wording, wording == UNSAFE) for number in range(260) for wording in (SAFE, UNSAFE)),
    *(made_up(number, EITHER, number % 5 < 2) for number in range(180)),
]
EXTRA = [LabelledText(f"a quiet day {' '.join(FILLER[::20])}", 0, "none", "made up")]
PLAN = Plan(seeds=(0, 1), finetuning=Finetuning(layers=1, rank=2, epochs=1, longest=16))


@pytest.fixture(scope="module", autouse=True)
def small_fasttext():
    """Fewer rows to quantise and fewer rounds: a minute less."""
    with pytest.MonkeyPatch.context() as patch:
        for settings in (LEVEL_SETTINGS, CATEGORY_SETTINGS):
            patch.setitem(settings, "epoch", 8)
        patch.setitem(LEVEL_SETTINGS, "bucket", 500)
        yield


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
    embedding = EmbeddingClassifier.load(head=folder / "embedding" / "minilm_head.safetensors")
    for classifier in (embedding, FastTextClassifier.load(folder / "fasttext", alone=True)):
        safe, unsafe = classifier.score([SAFE, UNSAFE])
        assert safe.score == 0 < unsafe.score


def test_finished_seeds_are_not_trained_again(trained):
    folder, decisions, _ = trained

    def seeds() -> dict[str, int]:
        return {file.name: file.stat().st_mtime_ns for file in (folder / "seeds").glob("*.safetensors")}

    before = seeds()
    assert len(before) == 2
    # the labels of held-out rows matter for the thresholds alone
    rows = [replace(row, score=5) if row.score and is_held_out(row.text) else row for row in ROWS]
    assert train_all(rows, EXTRA, folder, PLAN, lambda text: None) != decisions
    assert seeds() == before


def test_a_seeds_file_is_named_by_its_rows_and_settings(tmp_path):
    plain = seed_file(tmp_path, ROWS, PLAN, 0)
    assert plain == seed_file(tmp_path, list(ROWS), replace(PLAN, processes=2, seeds=(7,)), 0)
    relabelled = [replace(ROWS[0], score=5), *ROWS[1:]]
    others = [
        seed_file(tmp_path, ROWS, PLAN, 1),
        seed_file(tmp_path, relabelled, PLAN, 0),
        seed_file(tmp_path, ROWS, replace(PLAN, unsafe_weight=2.0), 0),
        seed_file(tmp_path, ROWS, replace(PLAN, finetuning=Finetuning()), 0),
    ]
    assert len({plain, *others}) == 5


def test_rows_of_which_none_can_be_held_out_are_refused(tmp_path):
    kept = [row for row in ROWS if not is_held_out(row.text)]
    with pytest.raises(DataError, match="labelled rows: too few to hold a sixth of them out"):
        train_all(kept, EXTRA, tmp_path, PLAN, lambda text: None)
