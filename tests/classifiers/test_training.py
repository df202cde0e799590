"""Training and evaluation commands on a few made-up rows: the same bytes twice, and messages that name the row."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from classifiers.decision import DECISION_FILE, Decision
from classifiers.errors import DataError
from classifiers.fasttext_classifier import CATEGORY_FILE, LEVEL_FILE, FastTextClassifier
from classifiers.rubric import NEVER_TRAIN_CATEGORIES
from classifiers.training.fasttext_training import train_fasttext, write_decision
from classifiers.training.head_training import HARMLESS_SEEDS, class_weights, fit_one_against_rest, read_seeds
from classifiers.training.labels import LabelledText, read_labels, read_pool, read_texts

# Quantisation needs 256 known words: neutral ones that every class holds alike (no digits, which are masked).
FILLER = [f"w{first}{second}" for first in "abcdefghijklmnopqrst" for second in "abcdefghijklmnopqrst"]

ROWS = [
    LabelledText(f"{text} {text} {text} {' '.join(FILLER[number % 10 :: 10])}", score, category, "made up")
    for number in range(60)
    for text, score, category in (
        ("bread butter jam and a nice walk in the garden", 0, "none"),
        ("you damn idiots are stupid fools and liars", 3, "profanity_insult"),
        ("they sell stolen cars and forged papers", 4, "non_violent_crimes"),
    )
]


def test_fasttext_training_repeats_byte_for_byte_and_learns(tmp_path):
    for name in ("one", "two"):
        train_fasttext(ROWS, tmp_path / name)
    for file in (LEVEL_FILE, CATEGORY_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    median = Decision((0.5,) * 5)
    write_decision(median, median, tmp_path / "one" / DECISION_FILE)
    scores = FastTextClassifier.load(tmp_path / "one").score(["bread and jam", "you stupid idiots", "stolen cars"])
    assert [score.score for score in scores] == [0, 3, 4]
    assert [score.category for score in scores] == ["none", "profanity_insult", "non_violent_crimes"]


def test_words_that_look_like_labels_of_fasttext_are_none(tmp_path, monkeypatch):
    """A page about fastText: it must neither bring in a label that the rubric lacks nor be taught as another level."""
    lines = []

    def no_training(command, **_):
        lines.append(Path(command[3]).read_text(encoding="utf-8"))
        Path(command[4]).touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr("classifiers.training.fasttext_training.subprocess.run", no_training)
    text = "A line begins with __label__positive or __label__1 there."
    train_fasttext([LabelledText(text, 3, "profanity_insult", "made up")], tmp_path)
    words = "a line begins with or there ."
    assert lines == [f"__label__3 {words}\n", f"__label__profanity_insult {words}\n"]


def test_rows_that_break_the_rules_are_named(tmp_path):
    good = json.dumps({"text": "a", "score": 0, "category": "none"})
    for bad, message in (
        ("{", "line 2: not JSON"),
        ('{"score": 1}', "line 2: expected an object with a string `text`"),
        ('{"text": "a", "score": 6, "category": "hate"}', "line 2: score 6"),
        ('{"text": "a", "score": 2, "category": "none"}', "line 2: category 'none' with score 2"),
    ):
        file = tmp_path / "labels.jsonl"
        file.write_text(f"{good}\n{bad}\n", encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_labels(file)
    with pytest.raises(DataError, match="no such file"):
        read_texts(tmp_path / "absent.jsonl")


@pytest.mark.parametrize("read", [read_labels, read_texts, read_pool])
def test_a_file_in_another_encoding_is_named(tmp_path, read):
    file = tmp_path / "latin.jsonl"
    file.write_bytes('{"text": "café", "score": 0, "category": "none"}\n'.encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.jsonl: not UTF-8, behind line 0 .*save it as UTF-8"):
        read(file)
    file.write_text('{"text": "a", "score": %s, "category": "none"}\n' % ("1" * 5000))
    with pytest.raises(DataError, match="line 1: not JSON"):
        read(file)


def test_class_weights_balance_the_classes():
    targets = np.array([0, 0, 0, 1])
    balanced = class_weights(targets, 2, 1.0)
    assert balanced[:3].sum() == pytest.approx(balanced[3])
    assert (class_weights(targets, 2, 0.0) == 1).all()


def test_one_against_rest_separates():
    features = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    positive = np.array([True, True, False, False])
    matrix, bias = fit_one_against_rest(features, positive, np.ones(4), 100.0)
    assert ((features @ matrix[0] + bias[0] > 0) == positive).all()


def test_seeds_cover_each_never_train_category_and_what_only_sounds_alike():
    names = [name for name, _ in read_seeds()]
    for name in (*NEVER_TRAIN_CATEGORIES, HARMLESS_SEEDS):
        assert names.count(name) >= 10


def test_shipped_fasttext_reaches_its_stated_numbers(shared_data):
    from classifiers.measures import confusion_matrix, precision_at, recall_at

    rows = read_labels(shared_data / "annotations" / "dev.jsonl")
    true = [row.score for row in rows]
    predicted = [score.score for score in FastTextClassifier.load(alone=True).score([row.text for row in rows])]
    confusion = confusion_matrix(true, predicted)
    assert recall_at(confusion, 1) > 0.80 and precision_at(confusion, 1) > 0.82
    assert recall_at(confusion, 3) > 0.45 and precision_at(confusion, 3) > 0.70
