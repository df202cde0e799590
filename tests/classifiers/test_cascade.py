"""The cascade with the shipped weights: what is asked, in what order, and that a document's neighbours play no part."""

from dataclasses import replace

import numpy as np
import pytest
from datatrove.data import Document
from safetensors.numpy import load_file, save_file

from classifiers import ScoreSafety
from classifiers.calibration_file import Calibration
from classifiers.cascade import CascadeClassifier, GatedEmbedding, cascade_score
from classifiers.cascade_rules import (
    Thresholds,
    distance_to_threshold,
    embedding_order,
    judge_is_asked,
    near_boundary,
    never_train_margin,
    replay,
)
from classifiers.chunk_gate import GATE_FILE, ChunkGate, summed_tokens
from classifiers.decision import Decision, MostProbable
from classifiers.embedding import EmbeddingClassifier
from classifiers.ensemble import combine
from classifiers.errors import IdentityError, ModelError
from classifiers.fasttext_classifier import FastTextClassifier
from classifiers.never_train import LEAST_PROBABILITY
from classifiers.rubric import NEVER_TRAIN_CATEGORIES
from classifiers.score import Score
from tests.classifiers.small_cascade import LONG_SAFE, SAFE, UNSAFE, build_small_cascade

GATE = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.7, 0.0, 0.0], [0.1, 0.1, 0.9], [0.9, 0.0, 0.0]])
HALF = Thresholds(0.5, 0.5, 0.5)
EVERYTHING, NOTHING = Thresholds(0.0, 0.0, 0.0), Thresholds(2.0, 2.0, 2.0)
MIXED = [SAFE[0], UNSAFE[0], "", UNSAFE[1] * 4 + LONG_SAFE, LONG_SAFE, "\0 \ud800", "安全" * 40]


def score(level: int, category: str = "other", p: tuple[float, ...] | None = None) -> Score:
    probabilities = p or tuple(float(index == level) for index in range(6))
    return Score(level, probabilities, category if level else "none", 0.5, 1)


def test_most_suspicious_chunks_come_first_and_sure_ones_at_once():
    assert embedding_order(GATE, HALF, level=0) == ([1, 3], [0, 4, 2])


def test_an_unsafe_first_score_leaves_only_what_may_lift_it_further():
    assert embedding_order(GATE, HALF, level=1) == ([1, 3], [])
    assert embedding_order(GATE, HALF, level=5) == ([3], [])


def test_a_never_train_category_asks_for_the_whole_document():
    assert embedding_order(GATE, NOTHING, level=2, whole=True) == ([0, 1, 2, 3, 4], [])


def test_the_queue_ends_once_the_document_is_unsafe():
    assert replay(GATE, HALF, 0, np.zeros(5, dtype=int)) == [1, 3, 0, 4, 2]
    assert replay(GATE, HALF, 0, np.array([0, 0, 0, 0, 1])) == [1, 3, 0, 4]
    assert replay(GATE, HALF, 0, np.array([0, 3, 0, 0, 1])) == [1, 3]
    assert replay(GATE, NOTHING, 0, np.array([5, 5, 5, 5, 5])) == []


@pytest.mark.parametrize(
    ("p", "asked"),
    [
        ((1.0, 0, 0, 0, 0, 0), False),
        ((0.6, 0.4, 0, 0, 0, 0), True),
        ((0.1, 0.3, 0.2, 0.4, 0, 0), True),
        ((0.1, 0.8, 0.1, 0, 0, 0), False),
    ],
)
def test_the_judge_is_asked_near_a_boundary_only(p, asked):
    even = MostProbable()
    assert near_boundary(p, even, 0.15) is asked
    assert near_boundary(p, even, 0.0) is False and near_boundary(p, even, 0.5) is True
    assert judge_is_asked(None, even, 0.5) is False


def test_the_band_lies_around_the_thresholds_that_decide():
    low_at_1 = Decision((0.2, 0.5, 0.8, 0.9, 0.9))
    at_its_threshold, at_one_half = (0.8, 0.2, 0, 0, 0, 0), (0.5, 0.5, 0, 0, 0, 0)
    assert low_at_1.levels(np.array([at_its_threshold])).tolist() == [1], "decided by a hair"
    assert near_boundary(at_its_threshold, low_at_1, 0.05) and not near_boundary(at_one_half, low_at_1, 0.15)
    assert not near_boundary(at_its_threshold, MostProbable(), 0.15) and near_boundary(
        at_one_half, MostProbable(), 0.05
    )
    for reached, asked in ((0.8, True), (0.75, True), (0.5, False), (1.0, False)):  # 0.8 decides at 3
        assert near_boundary((0, 0, 1 - reached, reached, 0, 0), low_at_1, 0.1) is asked


def test_the_distance_is_zero_at_the_threshold_and_one_half_at_the_ends():
    for threshold in (0.05, 0.325, 0.5, 0.97):
        ends = [distance_to_threshold(p, threshold) for p in (0.0, threshold, 1.0)]
        assert ends == pytest.approx([0.5, 0.0, 0.5])
    assert [distance_to_threshold(p, 0.5) for p in (0.2, 0.6)] == pytest.approx([0.3, 0.1])
    assert distance_to_threshold(1.0, 1.0) == 0.0 and distance_to_threshold(0.0, 1.0) == 0.5


def test_a_band_is_at_most_one_half():
    with pytest.raises(ValueError, match=r"band 0.6: expected 0 to 0.5"):
        near_boundary((1.0, 0, 0, 0, 0, 0), MostProbable(), 0.6)


def test_the_never_train_margin_is_zero_at_the_rule():
    at_rule = np.array([LEAST_PROBABILITY[name] for name in NEVER_TRAIN_CATEGORIES])
    one_at_rule = np.diag(at_rule)
    margins = never_train_margin(np.vstack([one_at_rule, at_rule / 2, np.minimum(at_rule * 3, 1)]))
    assert margins[:3] == pytest.approx([0.0] * 3) and margins[3] < 0 < margins[4]


def test_null_is_not_zero():
    stopped = cascade_score({"fasttext": score(0), "embedding": None, "judge": None})
    assert (stopped.score, stopped.category, stopped.stage_reached) == (0, "none", "fasttext")
    assert stopped.by["embedding"] is None
    asked = cascade_score({"fasttext": score(0), "embedding": score(0), "judge": None})
    assert asked.stage_reached == "embedding" and asked.by["embedding"].score == 0


def test_token_sums_are_exact():
    table = np.full((3, 2), 127, dtype=np.int8)
    assert summed_tokens(table, [0, 1, 2] * 1000).tolist() == [381_000, 381_000]


@pytest.fixture(scope="module")
def embedding():
    return EmbeddingClassifier.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, embedding):
    path = tmp_path_factory.mktemp("cascade")
    build_small_cascade(path, embedding)
    return path


@pytest.fixture(scope="module")
def cascade(folder, embedding):
    return CascadeClassifier.load(folder, embedding)


@pytest.fixture
def read_chunks(embedding, monkeypatch):
    """How many chunks the encoder reads."""
    chunks: list[int] = []
    embed = embedding.encoder.embed_windows

    def counted(windows):
        chunks.extend(len(window) for window in windows)
        return embed(windows)

    monkeypatch.setattr(embedding.encoder, "embed_windows", counted)
    return chunks


def with_thresholds(folder, embedding, thresholds: Thresholds) -> CascadeClassifier:
    gated = GatedEmbedding.load(folder, embedding)
    changed: Calibration = gated.calibration.model_copy(update={"thresholds": thresholds})
    return CascadeClassifier(FastTextClassifier.load(), GatedEmbedding(embedding, gated.gate, changed))


def test_safe_text_stops_at_the_gate_and_threats_do_not(cascade):
    safe, threat, empty = cascade.score([SAFE[1], UNSAFE[1], ""])
    assert (safe.score, safe.stage_reached, safe.by["embedding"]) == (0, "fasttext", None)
    assert threat.score >= 3 and threat.stage_reached == "embedding"
    assert (empty.score, empty.stage_reached) == (0, "fasttext")


def test_decisions_scores_and_cost_do_not_depend_on_neighbours(cascade, read_chunks):
    together = cascade.score(MIXED)
    cost = sorted(read_chunks)
    read_chunks.clear()
    assert [cascade.score([text])[0] for text in reversed(MIXED)] == together[::-1]
    assert sorted(read_chunks) == cost and cost
    read_chunks.clear()
    assert cascade.score(MIXED * 3) == together * 3
    assert sorted(read_chunks) == sorted(cost * 3)


def test_the_gate_is_a_function_of_the_document(folder, embedding):
    gate = ChunkGate(folder / GATE_FILE, embedding.encoder.weights_sha256)
    windows = embedding.encoder.windows(MIXED[3])
    assert len(windows) > 1
    again = ChunkGate(folder / GATE_FILE, embedding.encoder.weights_sha256)
    assert (gate.scores(windows) == again.scores(windows)).all()
    assert gate.scores(windows).shape == (len(windows), 3)


def test_open_gates_give_the_ensemble_and_closed_ones_fasttext_alone(folder, embedding, read_chunks):
    fasttext = FastTextClassifier.load().score(MIXED)
    whole = embedding.score(MIXED)
    opened = with_thresholds(folder, embedding, EVERYTHING).score(MIXED)
    for text, score_, a, b in zip(MIXED, opened, fasttext, whole, strict=True):
        if text.strip():
            assert score_.by == {"fasttext": a, "embedding": b, "judge": None}
            assert score_.score == combine({"fasttext": a, "embedding": b}).score
    read_chunks.clear()
    closed = with_thresholds(folder, embedding, NOTHING).score([SAFE[0], LONG_SAFE])
    assert not read_chunks and [s.stage_reached for s in closed] == ["fasttext", "fasttext"]


def test_the_cascade_never_scores_above_the_ensemble(cascade, embedding):
    fasttext, whole = FastTextClassifier.load().score(MIXED), embedding.score(MIXED)
    for score_, a, b in zip(cascade.score(MIXED), fasttext, whole, strict=True):
        assert a.score <= score_.score <= max(a.score, b.score)


def test_a_never_train_category_of_fasttext_opens_the_gate(folder, embedding):
    gated = with_thresholds(folder, embedding, NOTHING)._gated
    first = [score(2, "weapons"), score(2)]
    asked, stopped = gated.score([LONG_SAFE, LONG_SAFE], first)
    assert asked.n_chunks == len(embedding.encoder.windows(LONG_SAFE)) and asked.never_train
    assert stopped is None


def test_the_judge_sees_only_open_decisions(folder, embedding):
    seen: list[str] = []

    def judge(texts):
        seen.extend(texts)
        return [score(5)] * len(texts)

    for band, expected in ((0.5, [UNSAFE[2]]), (0.0, [])):
        seen.clear()
        cascade = CascadeClassifier.load(folder, embedding, judge=judge, judge_band=band)
        safe, threat = cascade.score([SAFE[2], UNSAFE[2]])
        assert seen == expected and safe.stage_reached == "fasttext"
        assert threat.stage_reached == ("judge" if expected else "embedding")


def test_it_works_in_a_datatrove_pipeline(cascade):
    documents = [Document(text=text, id=str(n)) for n, text in enumerate([SAFE[3], UNSAFE[3]])]
    found = [d.metadata["safety"]["cascade"] for d in ScoreSafety(lambda: cascade, "cascade").run(iter(documents))]
    assert [row["stage_reached"] for row in found] == ["fasttext", "embedding"]
    assert found[0]["by"]["embedding"] is None and found[1]["by"]["embedding"]["score"] == found[1]["score"]


def test_gates_for_other_weights_are_refused(folder, embedding, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / GATE_FILE)
    tensors["output.bias"] = tensors["output.bias"] + 1
    metadata = {"encoder_sha256": embedding.encoder.weights_sha256}
    save_file(tensors, tmp_path / GATE_FILE, metadata=metadata)
    with pytest.raises(IdentityError, match="other weights of gate"):
        CascadeClassifier.load(tmp_path, embedding)
    save_file(tensors, tmp_path / GATE_FILE, metadata={"encoder_sha256": "0"})
    with pytest.raises(ModelError, match="distilled from the encoder with sha256 0, not from the one loaded"):
        CascadeClassifier.load(tmp_path, embedding)


def test_a_broken_gate_is_refused(folder, embedding, tmp_path):
    file, sha256 = tmp_path / GATE_FILE, embedding.encoder.weights_sha256
    with pytest.raises(ModelError, match="no such gate"):
        ChunkGate(file, sha256)
    file.write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="not a safetensors file"):
        ChunkGate(file, sha256)
    tensors = load_file(folder / GATE_FILE)
    del tensors["output.bias"]
    save_file(tensors, file, metadata={"encoder_sha256": sha256})
    with pytest.raises(ModelError, match=r"output\.bias"):
        ChunkGate(file, sha256)


def test_the_fingerprint_holds_the_thresholds(cascade, folder, embedding):
    other = with_thresholds(folder, embedding, replace(HALF, at_1=0.25))
    assert cascade.fingerprint() != other.fingerprint()
    assert other.fingerprint()["thresholds"]["at_1"] == 0.25
