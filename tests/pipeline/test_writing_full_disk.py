"""The disk fills while a shard is written about: nothing is published, the error says so, and what was answered is kept."""

import json
import re
import subprocess
import sys

import pytest

from pipeline.stages.synthesis import draft_table
from tests.conftest import ROOT
from tests.pipeline.stage_runs import run_stage
from tests.pipeline.writing_stage import DIALOGUE, prepare, rows_of, stage_of, word_of
from tests.rephrasers.fault_stub import misbehaving, said

WORDS = [f"page-{n}" for n in range(40)]


def long_answer(prompt, _):
    return said(DIALOGUE.format(word=word_of(prompt)) + " It would be wrong." * 200)


def short_answer(prompt, _):
    return said(DIALOGUE.format(word=word_of(prompt)))


FULL = r"DataError: stage refuse, shard 0: a file cannot be written \(File too large\)\. Free space under .*/run, "
CASES = {
    # where it fills: (characters that documents are longer by, answer, limit in bytes, when, words of the error)
    "answer cache": (0, long_answer, 100_000, "asking", r"DataError: .*replay\.sqlite3.*: an answer cannot be written"),
    "documents": (9000, short_answer, 200_000, "asking", FULL),
    "output": (0, long_answer, 1000, "writing", FULL),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is set as on Linux")
@pytest.mark.parametrize("case", CASES)
def test_disk_full(tmp_path, case):
    pad, answer, limit, when, message = CASES[case]
    ids = prepare(tmp_path, WORDS, pad)
    stage = stage_of(tmp_path, {})
    with misbehaving(answer) as server:
        child = subprocess.run(
            [sys.executable, "-m", "tests.pipeline.write_with_full_disk", tmp_path, server.url, str(limit), when],
            **{"cwd": ROOT, "capture_output": True, "text": True},
        )
        first = {word_of(prompt) for prompt in server.asked}
    assert child.returncode == 1
    assert re.search(rf"(?m)^{message}", child.stderr), child.stderr
    recorded = json.loads(stage.run.failure("refuse", 0).read_text())["error"]
    assert "Free space" in recorded or "free space" in recorded
    assert not list((stage.run.root / "drafts").rglob("*")) or not draft_table(stage.run, "refusal", 0).exists()
    assert not stage.run.manifest("refuse", 0).exists()
    if case == "answer cache":
        assert len(first) < len(WORDS), "it stops asking when answers cannot be kept"

    with misbehaving(answer) as server:
        stage = stage_of(tmp_path, {"url": server.url})
        manifest = run_stage(stage)
        second = {word_of(prompt): times for prompt, times in server.asked.items()}
    assert [row["source_id"] for row in rows_of(stage)] == ids
    assert manifest.rows.to_json() == {"in": 40, "kept": 40, "dropped": {}, "quarantined": {}}
    # all but the few whose answers could not be written: those in flight, and those begun before the stop is seen
    assert len(first & set(second)) <= 8 and set(second.values()) <= {1}
    assert set(second) >= set(WORDS) - first
    if when == "writing":
        assert not second
