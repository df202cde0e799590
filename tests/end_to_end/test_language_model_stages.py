"""Stages where an LLM writes: after `kill -9` the same ids, order and counts, and no received answer asked for again."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from classifiers.errors import IdentityError
from pipeline.run import run_states
from pipeline.run_folder import RunFolder
from pipeline.stages.assignments import prompt_hashes
from tests.end_to_end.runs import ROOT, command, kill_in_stage, results, safetrove, write_recipe, write_sources

KINDS = {"rephrase": "rephrased", "refuse": "refusal", "moralise": "moral"}
LATER = ("verify-", "tag", "token", "blend", "card-counts", "report")
IN_FLIGHT = 4


@contextmanager
def counting_server(log: Path, answers: int):
    """URL of a server that gives so many answers and then holds."""
    script = Path(__file__).with_name("counting_server.py")
    process = subprocess.Popen([sys.executable, str(script), str(log), str(answers)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()


def lines(log: Path, word: str) -> list[str]:
    return [line.split()[1] for line in log.read_text().splitlines() if line.startswith(word)] if log.is_file() else []


def stored_answers(run: Path) -> int:
    """Rows in the answer caches of a run that is being worked on."""
    total = 0
    for path in (run / "work").rglob("replay.sqlite3"):
        with contextlib.suppress(sqlite3.OperationalError), contextlib.closing(sqlite3.connect(path)) as cache:
            total += cache.execute("SELECT COUNT(*) FROM request_cache").fetchone()[0]
    return total


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(recipe, finished run, requests that it made)."""
    folder = tmp_path_factory.mktemp("llm")
    llm = {"kind": "endpoint", "url": "http://127.0.0.1:1", "model": "counting", "concurrency": IN_FLIGHT}
    recipe = write_recipe(folder / "recipe.yaml", write_sources(folder / "in", 2), synthesis={"llm": llm})
    log = folder / "requests"
    with counting_server(log, 10**9) as url:
        safetrove("run", recipe, "--output", folder / "run", "--set", f"synthesis.llm.url={url}")
    return recipe, folder / "run", lines(log, "asked")


@pytest.mark.parametrize("stage", KINDS)
def test_kill_in_the_middle(undisturbed, tmp_path, stage):
    recipe, whole, requests = undisturbed
    run, log = tmp_path / "run", tmp_path / "requests"
    shutil.copytree(whole, run, copy_function=shutil.copy2)
    later = [*list(KINDS)[list(KINDS).index(stage) :], *LATER]
    for folder in (run / "manifests").iterdir():
        if folder.name.startswith(tuple(later)):
            shutil.rmtree(folder)
    before = 2  # of the first shard; the second is not begun
    with counting_server(log, before) as url:
        arguments = ("run", recipe, "--output", run, "--stage", stage, "--set", f"synthesis.llm.url={url}")
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        while process.poll() is None and len(lines(log, "answered")) < before:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.wait()
    first_asked, first_answered = lines(log, "asked"), lines(log, "answered")
    log.unlink()
    with counting_server(log, 10**9) as url:
        safetrove("run", recipe, "--output", run, "--set", f"synthesis.llm.url={url}")
    again = Counter(first_asked) + Counter(lines(log, "asked"))
    assert len(first_answered) >= before
    repeated = [name for name, times in again.items() if times > 1]
    # an answer that was on its way when the process died was not received: at most those may be asked for twice
    assert len(repeated) <= IN_FLIGHT and set(again) <= set(requests)
    for kind in KINDS.values():
        for shard in (0, 1):
            name = f"drafts/{kind}/{shard:05d}.parquet"
            assert pq.read_table(run / name).to_pylist() == pq.read_table(whole / name).to_pylist()
    assert results(run) == results(whole)


def test_answers_that_were_received_are_not_asked_for_again(undisturbed, tmp_path):
    """Once the answers lie in the cache (three answered, the rest held for long), none of them is asked for again."""
    recipe, whole, _ = undisturbed
    run, log = tmp_path / "run", tmp_path / "requests"
    shutil.copytree(whole, run, copy_function=shutil.copy2)
    for folder in (run / "manifests").iterdir():
        if folder.name.startswith((*KINDS, *LATER)):
            shutil.rmtree(folder)
    with counting_server(log, 3) as url:
        arguments = ("run", recipe, "--output", run, "--stage", "rephrase", "--set", f"synthesis.llm.url={url}")
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
        while process.poll() is None and stored_answers(run) < 3:
            os.sched_yield()
        process.send_signal(signal.SIGKILL)
        process.wait()
    answered = lines(log, "answered")
    log.unlink()
    with counting_server(log, 10**9) as url:
        safetrove("run", recipe, "--output", run, "--set", f"synthesis.llm.url={url}")
    assert not set(answered) & set(lines(log, "asked"))
    assert results(run) == results(whole)


def test_a_changed_prompt_model_or_share_is_refused(undisturbed, tmp_path):
    recipe, whole, _ = undisturbed
    for change in ("synthesis.llm.model=other", "synthesis.fraction=0.5", "synthesis.rephrase_scores=[1,2]"):
        refused = safetrove("run", recipe, "--output", whole, "--set", change, expect=1)
        key, value = change.split("=")
        assert (
            key.split(".")[-1] in refused.stderr and "->" in refused.stderr and value.strip("[]")[0] in refused.stderr
        )
    assert "nothing was left" in safetrove("run", recipe, "--output", whole).stdout


def test_a_changed_prompt_file_is_refused(undisturbed, monkeypatch):
    _, whole, _ = undisturbed
    assert run_states(RunFolder(whole))
    changed = {**prompt_hashes("refusal"), "refuse": "0" * 64}
    monkeypatch.setattr("pipeline.stages.synthesis.prompt_hashes", lambda kind: changed)
    with pytest.raises(IdentityError, match=r"(?s)refuse 00000.*settings\.prompts\.refuse: '[0-9a-f]+' -> '0+'"):
        run_states(RunFolder(whole))


@pytest.mark.parametrize("kind", KINDS.values())
def test_kill_in_the_middle_of_verification(undisturbed, tmp_path, kind):
    recipe, whole, _ = undisturbed
    run = tmp_path / "run"
    shutil.copytree(whole, run, copy_function=shutil.copy2)
    for folder in (run / "manifests").iterdir():
        if folder.name.startswith(LATER):
            shutil.rmtree(folder)
    shutil.rmtree(run / "logs" / f"verify-{kind}")
    arguments = ("run", recipe, "--output", run)
    if kind != "rephrased":  # the kinds that are verified before it
        safetrove(*arguments, "--stage", "verify-rephrased", "--stage", "verify-refusal")
        shutil.rmtree(run / "manifests" / f"verify-{kind}", ignore_errors=True)
    kill_in_stage(run, f"verify-{kind}", *arguments, "--stage", f"verify-{kind}")
    safetrove(*arguments)
    assert results(run) == results(whole)
