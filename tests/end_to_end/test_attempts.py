"""What fails verification is asked for again, a bounded number of times: lineage, ledger, card, and after `kill -9`."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rephrasers.attempts import seed_of_attempt, style_of_attempt
from tests.end_to_end.rude_texts import write_rude_sources
from tests.end_to_end.runs import ROOT, command, results, safetrove, write_recipe
from tests.end_to_end.test_language_model_stages import lines, stored_answers

KINDS = {"rephrased": "rephrase", "refusal": "refuse", "moral": "moralise"}
IN_FLIGHT, LAST = 4, 3


@contextmanager
def writer(kind: str, log: Path, answers: int = 10**9):
    """URL of a writer of `writers.py`."""
    script = Path(__file__).with_name("writers.py")
    process = subprocess.Popen(
        [sys.executable, str(script), kind, str(log), str(answers)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


def recipe_for(folder: Path, **synthesis) -> Path:
    llm = {"kind": "endpoint", "url": "http://127.0.0.1:1", "model": "writers", "concurrency": IN_FLIGHT}
    sources = write_rude_sources(folder / "in", 2)
    return write_recipe(folder / "recipe.yaml", sources, synthesis={"llm": llm, **synthesis})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(recipe, finished run of the fair writer, keys of its requests)."""
    folder = tmp_path_factory.mktemp("attempts")
    recipe, log = recipe_for(folder), folder / "requests"
    with writer("fair", log) as url:
        safetrove("run", recipe, "--output", folder / "run", "--set", f"synthesis.llm.url={url}")
    return recipe, folder / "run", lines(log, "asked")


def rows(run: Path, table: str) -> list[dict]:
    return [row for path in sorted((run / table).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def manifests(run: Path, stage: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((run / "manifests" / stage).glob("*.json"))]


@pytest.mark.parametrize("kind", KINDS)
def test_each_document_is_tried_until_a_draft_passes(finished, kind):
    _, run, _ = finished
    drafts, synthetic, rejected = (rows(run, f"{table}/{kind}") for table in ("drafts", "synthetic", "rejected"))
    assert len(drafts) == len(synthetic) + len(rejected) and synthetic
    assert [row["id"] for row in synthetic] == [
        row["id"] for row in drafts if row["id"] not in {r["id"] for r in rejected}
    ]
    for row in drafts:
        numbers = [attempt["attempt"] for attempt in row["attempts"]]
        assert numbers == list(range(1, row["attempt"] + 1)) and row["attempt"] <= LAST
        assert [a["seed"] for a in row["attempts"]] == [seed_of_attempt(0, n) for n in numbers]
        assert row["attempt_seed"] == seed_of_attempt(0, row["attempt"]) and row["seed"] == 0
        if kind == "rephrased":
            styles = [style_of_attempt(0, row["source_id"], number).name for number in numbers]
            assert [a["style"] for a in row["attempts"]] == styles and row["style"] == styles[-1]
        assert all(attempt["reasons"] for attempt in row["attempts"][:-1]), "only what failed is asked for again"
    for row in synthetic:
        assert row["attempts"][-1]["reasons"] == [] and row["attempt"] == len(row["attempts"])
    for row in rejected:
        assert len(row["attempts"]) == LAST and all(attempt["reasons"] for attempt in row["attempts"])
    assert {row["attempt"] for row in synthetic} == {1, 2, 3}, "each attempt brought something"


def test_ledger_metrics_and_card_agree_with_the_tables(finished):
    _, run, _ = finished
    card = json.loads((run / "report" / "card.json").read_text())
    for kind, stage in KINDS.items():
        drafts, synthetic, rejected = (rows(run, f"{table}/{kind}") for table in ("drafts", "synthetic", "rejected"))
        entry = card["synthetic"][kind]
        assert (entry["tried"], entry["accepted"]) == (len(drafts), len(synthetic))
        assert entry["drafts"] == sum(len(row["attempts"]) for row in drafts)
        assert entry["by_attempt"] == {str(n): times for n, times in Counter(r["attempt"] for r in synthetic).items()}
        told = [attempt for row in (*synthetic, *rejected) for attempt in row["attempts"]]
        for style, one in entry["by_style"].items():
            of_style = [attempt for attempt in told if attempt["style"] == style]
            assert one["tried"] == len(of_style)
            assert one["accepted"] == sum(not attempt["reasons"] for attempt in of_style)
            assert one["rejected"] == Counter(reason for attempt in of_style for reason in attempt["reasons"])
        for manifest in manifests(run, stage) + manifests(run, f"verify-{kind}"):
            counts = manifest["rows"]
            assert counts["in"] == counts["kept"] + sum(counts["dropped"].values()) + sum(
                counts["quarantined"].values()
            )
        assert sum(entry["dropped"].values()) == len(rejected)
    assert card["warnings"] == []


def test_every_request_is_made_once(finished):
    _, run, requests = finished
    attempts = sum(len(row["attempts"]) for kind in KINDS for row in rows(run, f"drafts/{kind}"))
    assert len(requests) == len(set(requests)) == attempts


@pytest.mark.parametrize("kind", ["rephrased", "refusal"])
def test_kill_in_a_further_attempt(finished, tmp_path, kind):
    """Killed when the first shard's further attempts have begun: what was received is not asked again."""
    recipe, whole, requests = finished
    stage, run, log = KINDS[kind], tmp_path / "run", tmp_path / "requests"
    shutil.copytree(whole, run, copy_function=shutil.copy2)
    first = pq.read_table(whole / "drafts" / kind / "00000.parquet").to_pylist()
    before = len(first) + 2
    assert sum(len(row["attempts"]) > 1 for row in first) > 2
    gone = [*list(KINDS.values())[list(KINDS).index(kind) :], "verify-", "tag", "token", "blend", "card", "report"]
    for folder in (run / "manifests").iterdir():
        if folder.name.startswith(tuple(gone)):
            shutil.rmtree(folder)
    with writer("fair", log, before) as url:
        arguments = ("run", recipe, "--output", run, "--stage", stage, "--set", f"synthesis.llm.url={url}")
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        while process.poll() is None and stored_answers(run) < before:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert list((run / "work" / stage).rglob("attempt-2")), "killed too early"
    answered = lines(log, "answered")
    log.unlink()
    with writer("fair", log) as url:
        safetrove("run", recipe, "--output", run, "--set", f"synthesis.llm.url={url}")
    again = lines(log, "asked")
    assert not set(answered) & set(again) and set(answered) | set(again) <= set(requests)
    assert results(run) == results(whole)


def test_another_number_of_attempts_is_another_run(finished):
    recipe, run, _ = finished
    refused = safetrove("run", recipe, "--output", run, "--set", "synthesis.attempts=1", expect=1)
    assert "synthesis.attempts: 2 -> 1" in refused.stderr


def test_without_further_attempts_each_document_is_asked_once(tmp_path):
    recipe, log = recipe_for(tmp_path, attempts=0, moralise=False), tmp_path / "requests"
    with writer("fair", log) as url:
        safetrove("run", recipe, "--output", tmp_path / "run", "--set", f"synthesis.llm.url={url}")
    run = tmp_path / "run"
    for kind in ("rephrased", "refusal"):
        drafts = rows(run, f"drafts/{kind}")
        assert all([a["attempt"] for a in row["attempts"]] == [1] for row in drafts) and drafts
        assert 0 < len(rows(run, f"synthetic/{kind}")) < len(drafts)
    assert len(lines(log, "asked")) == sum(len(rows(run, f"drafts/{kind}")) for kind in ("rephrased", "refusal"))
