"""Texts that nobody wrote for a classifier: a score or a line that says what is wrong, never a crash, in bounded work."""

import io
import json

import pyarrow.parquet as pq
import pytest

from classifiers.encoder import Encoder
from classifiers.windows import MOST_CHUNKS
from pipeline.run_folder import RunFolder
from pipeline.stages.score import ClassifierStage, FinalScoreStage, score_table
from safetrove import scoring
from safetrove.scoring import score_lines
from tests.pipeline.stage_runs import run_stage, small_recipe, write_documents

BAD = {
    "empty": "",
    "space": " \n\t\u2028",
    "binary": "".join(chr(code % 256) for code in range(3000)),
    "NUL": "\0" * 1000,
    "20 MB": "The quick brown fox. " * 1_000_000,
    "no spaces": "q" * 5 + "vz" * 4000,
    "one character": "a" * 100_000,
    "one emoji": "\U0001f600" * 100_000,
    "combining marks": "e" + "\u0301" * 20_000,
    "right to left": "هذا نص عادي عن الطقس والخبز. " * 30,
    "no word boundaries": "安全" * 2000 + "ภาษาไทย" * 300,
    "labels": "__label__5 __label__hate </s> <unk>",
}


@pytest.fixture
def few_chunks(monkeypatch):
    """At most two windows of each text are encoded; how many there would be at most is a test of its own."""
    monkeypatch.setattr("classifiers.windows.MOST_CHUNKS", 2)


def test_the_work_for_any_text_is_bounded():
    encoder = Encoder()
    for name, text in BAD.items():
        windows = encoder.windows(text)
        assert 1 <= len(windows) <= MOST_CHUNKS, name
        assert max(map(len, windows)) <= encoder.window, name


def test_the_stages_score_any_text(tmp_path, few_chunks):
    recipe, run = small_recipe(tmp_path), RunFolder(tmp_path / "run")
    ids = write_documents(run, list(BAD.values()))
    for name in ("fasttext", "embedding"):
        manifest = run_stage(ClassifierStage(name, recipe, run, 1))
        assert (manifest.rows.rows_in, manifest.rows.kept) == (len(BAD), len(BAD))
        rows = pq.read_table(score_table(run, name, 0)).to_pylist()
        assert [row["id"] for row in rows] == ids
        for kind, row in zip(BAD, rows, strict=True):
            assert row["score"] in range(6) and sum(row["probabilities"]) == pytest.approx(1, abs=1e-3), (name, kind)
    run_stage(FinalScoreStage(recipe, run, 1))
    final = pq.read_table(score_table(run, "final", 0)).to_pylist()
    assert [row["score"] for row in final[:2]] == [0, 0], "nothing is in them"


def test_score_answers_any_line(tmp_path, few_chunks, monkeypatch):
    monkeypatch.setattr(scoring, "WINDOW", 5)
    texts = {**BAD, "surrogates": "a \ud800 b \udfff"}
    lines = [json.dumps({"id": name, "text": text}).encode() for name, text in texts.items()]
    rubbish = [bytes(set(range(256)) - {10}), b"\xff\xfe\x00", b"[" * 100_000, b'{"text": 5}', b"1" * 10_000, b'"text"']
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"\n".join([*rubbish[:3], *lines, *rubbish[3:]]) + b"\n\n  \n")
    out = io.StringIO()
    assert score_lines([file], out) == 1
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [row.get("id") for row in rows] == [None, None, None, *texts, None, None, None]
    for number, row in enumerate(rows, 1):
        if row.get("id") is None:
            assert list(row) == ["error"] and row["error"].startswith(f"line {number}: ")
        else:
            assert row["score"] == max(row["by"].values()) and len(row["probabilities"]) == 6
    assert len(out.getvalue()) < 10_000, "no text in the answers"


def test_long_lines_are_scored_in_small_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "MOST_CHARACTERS_IN_WINDOW", 100)
    lines = [scoring._Line({"text": "x" * size}) for size in (60, 60, 300, 1, 1)]
    assert [[len(line.row["text"]) for line in window] for window in scoring._windows(iter(lines))] == [
        [60, 60],
        [300],
        [1, 1],
    ]
