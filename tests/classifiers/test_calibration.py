"""What a gate may promise: bounds against the binomial sum, thresholds against simulation, and the file that keeps them."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from classifiers.calibration import (
    Evidence,
    calibrate,
    cascade_cost,
    never_train_threshold,
    passing_score,
    texts_sha256,
)
from classifiers.calibration_file import load_calibration
from classifiers.cascade_rules import NEVER_TRAIN, Thresholds, replay
from classifiers.errors import DataError, IdentityError
from classifiers.gate_statistics import (
    allowed_misses,
    choose_threshold,
    clopper_pearson_lower,
    positives_needed,
    recall_curve,
)

IDENTITY = {"fasttext": {"weights": {"level.ftz": "a"}}, "embedding": {"head": "b"}, "gate": {"sha256": "c"}}


@pytest.mark.parametrize(("hits", "trials"), [(1, 1), (9, 10), (29, 29), (57, 60), (3, 400)])
def test_at_the_lower_bound_so_many_hits_have_probability_alpha(hits, trials):
    p = clopper_pearson_lower(hits, trials, 0.95)
    tail = sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(hits, trials + 1))
    assert tail == pytest.approx(0.05, rel=1e-6)


def test_bounds_at_the_edges():
    assert clopper_pearson_lower(0, 10, 0.95) == 0.0
    assert clopper_pearson_lower(59, 59, 0.95) == pytest.approx(0.05 ** (1 / 59))
    with pytest.raises(ValueError, match="no such proportion"):
        clopper_pearson_lower(3, 2, 0.95)


@pytest.mark.parametrize(("target", "needed"), [(0.95, 59), (0.9, 29), (0.5, 5)])
def test_positives_needed_is_where_a_promise_becomes_possible(target, needed):
    assert positives_needed(target, 0.95) == needed
    assert allowed_misses(needed, target, 0.95) == 0
    assert allowed_misses(needed - 1, target, 0.95) == -1


def test_the_threshold_is_the_highest_that_may_be_promised():
    scores = np.random.default_rng(1).random(100).tolist()
    promise = choose_threshold(scores, 1, 0.9, 0.95)
    assert promise.lower_bound >= 0.9 and promise.recall == 1 - promise.missed / 100
    higher = min(score for score in scores if score > promise.threshold)
    hits = sum(score >= higher for score in scores)
    assert clopper_pearson_lower(hits, 100, 0.95) < 0.9


def test_tied_scores_are_not_counted_as_missed():
    promise = choose_threshold([0.5] * 100, 1, 0.9, 0.95)
    assert (promise.threshold, promise.missed, promise.recall) == (0.5, 0, 1.0)


def test_too_few_positives_are_refused_with_the_number_that_is_needed():
    with pytest.raises(
        DataError, match=r"score >= 3: 12 documents of the data reach it; .* needs at least 29.*lower target"
    ):
        choose_threshold([0.5] * 12, 3, 0.9, 0.95)
    with pytest.raises(DataError, match="0 documents"):
        choose_threshold([], 3, None, 0.95)


def test_without_a_target_no_positive_is_missed():
    promise = choose_threshold([0.4, 0.2, 0.9], 3, None, 0.95)
    assert (promise.threshold, promise.missed) == (0.2, 0)
    assert promise.target == promise.lower_bound == pytest.approx(0.05 ** (1 / 3))


def test_the_promise_holds_as_often_as_it_says():
    """True recall at a threshold t on uniform scores is 1 - t: at most one calibration in twenty may choose t > 0.1."""
    random = np.random.default_rng(7)
    broken = sum(choose_threshold(random.random(80).tolist(), 1, 0.9, 0.95).threshold > 0.1 for _ in range(600))
    assert 0.005 < broken / 600 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 600)


def test_the_curve_falls():
    curve = recall_curve(np.random.default_rng(2).random(50).tolist(), 0.95, 20)
    assert len(curve) == 20 and curve[0][1] == 1.0
    assert [point[1] for point in curve] == sorted((point[1] for point in curve), reverse=True)
    assert all(lower < recall for _, recall, lower in curve)


def documents(number: int = 300) -> list[Evidence]:
    """Documents of one to five chunks, a third of them unsafe, with a gate that is often right."""
    random = np.random.default_rng(3)
    made = []
    for index in range(number):
        levels = np.zeros(random.integers(1, 6), dtype=np.int64)
        if index % 3 == 0:
            levels[random.integers(len(levels))] = 1 + index // 3 % 4
        noise = random.random((len(levels), 3)) * 0.6
        gate = noise + 0.4 * np.stack([levels >= 1, levels >= 3, levels >= 4], axis=1)
        made.append(Evidence(gate, levels, levels >= 4, np.full(len(levels), 100), int(index % 30 == 0), False))
    return made


@pytest.fixture(scope="module")
def calibration():
    return calibrate(documents(), {1: 0.9, 3: 0.85}, 0.95, IDENTITY, texts_sha256(["a", "b"]))


def test_replaying_the_cascade_gives_the_recall_that_is_stated(calibration):
    for promise in calibration.promises:
        true = [document for document in documents() if document.levels.max() >= promise.level]
        found = 0
        for document in true:
            embedded = replay(document.gate, calibration.thresholds, document.first, document.levels)
            found += max([document.first, *document.levels[embedded].tolist()]) >= promise.level
        assert len(true) == promise.positives
        assert found >= promise.positives - promise.missed  # a chunk may pass by the other gates too


def test_a_document_passes_up_to_its_passing_score():
    for document in documents(60):
        if document.levels.max() >= 1 and document.first == 0:
            score = passing_score(document, 1)
            for threshold, found in ((score, True), (score + 1e-9, False)):
                embedded = replay(document.gate, Thresholds(threshold, 9.0, 9.0), 0, document.levels)
                assert bool(document.levels[embedded].max(initial=0) >= 1) == found


def test_the_cost_falls_with_the_threshold(calibration):
    for level in (1, 3):
        costs = [point.cost.tokens for point in calibration.curve if point.level == level]
        assert len(costs) > 10 and costs == sorted(costs, reverse=True) and costs[-1] < costs[0]
    assert 0.0 < calibration.cost.tokens < 1.0


def test_every_known_never_train_chunk_passes():
    threshold = never_train_threshold(documents())
    for document in documents():
        assert (document.gate[document.never_train, NEVER_TRAIN] >= threshold).all()
    none_known = [Evidence(d.gate, d.levels, d.levels > 9, d.tokens, 0, False) for d in documents()]
    passed = cascade_cost(none_known, Thresholds(9.0, 9.0, never_train_threshold(none_known)))
    assert 0.005 < passed.chunks < 0.02


def test_a_calibration_is_read_as_it_was_written(calibration, tmp_path):
    calibration.save(tmp_path / "calibration.json")
    assert load_calibration(tmp_path / "calibration.json", IDENTITY) == calibration


def test_other_weights_are_refused(calibration, tmp_path):
    calibration.save(tmp_path / "calibration.json")
    other = {**IDENTITY, "embedding": {"head": "retrained"}}
    with pytest.raises(IdentityError, match=r"calibrated for other weights of embedding .*calibrate again"):
        load_calibration(tmp_path / "calibration.json", other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw | {"extra": 1}, "extra"),
        (lambda raw: {key: value for key, value in raw.items() if key != "curve"}, "curve"),
        (lambda raw: raw | {"documents": "300"}, "documents"),
        (lambda raw: raw | {"date": "yesterday"}, "yesterday"),
        (lambda raw: raw | {"thresholds": raw["thresholds"] | {"at_1": 0.99}}, "not those of the promises"),
        (lambda raw: raw | {"promises": raw["promises"][:1]}, "promises for levels"),
        (lambda raw: raw | {"promises": [p | {"target": 0.999} for p in raw["promises"]]}, "under its target"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused(calibration, tmp_path, change, message):
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(change(calibration.model_dump(mode="json"))))
    with pytest.raises(DataError, match=f"(?s)not a calibration .*{message}"):
        load_calibration(file, IDENTITY)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"no such calibration; calibrate again with `safetrove classifier calibrate`"):
        load_calibration(tmp_path / "calibration.json", IDENTITY)


def test_the_command_names_what_it_cannot_read(tmp_path):
    (tmp_path / "texts.parquet").write_bytes(b"no table")
    command = [sys.executable, "-m", "safetrove", "classifier", "calibrate", str(tmp_path)]
    command += ["--distil", str(tmp_path / "rows.jsonl"), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "texts.parquet: cannot be read as Parquet with a column `text`" in " ".join(done.stderr.split())
    wrong = subprocess.run([*command, "--target-1", "1.5"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "--target-1 1.5: expected a share between 0 and 1" in " ".join(wrong.stderr.split())
