"""Keys in the environment stay there: a run that uses one, and fails and succeeds with it, writes it nowhere.

Publishing has tests of its own (tests/pipeline/publishing), and so have magic tokens (tests/finetune/test_magic_tokens.py).
"""

import contextlib
import hashlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.executors.slurm import StageScript
from pipeline.recipe import load_recipe
from pipeline.run_folder import RunFolder
from pipeline.stages.order import build_stages
from tests.chat_server import ChatHandler, completion, running
from tests.conftest import ROOT
from tests.end_to_end.runs import command, sample_texts, write_recipe
from tests.end_to_end.writers import fair

KEY, HUB_TOKEN = "key-5f0c1d7e9b", "hf_notarealtoken5f0c1d7e9b"
SECRETS = {"WRITER_KEY": KEY, "HF_TOKEN": HUB_TOKEN, "OPENAI_API_KEY": KEY + "-other"}
STAGES = [
    part
    for name in ("ingest", "dedup-find", "documents", "score-fasttext", "score-final", "rephrase")
    for part in ("--stage", name)
]


@contextlib.contextmanager
def talkative_server() -> Iterator[tuple[str, Counter[str]]]:
    """A server that repeats the key in headers and bodies of its errors: (its URL, what it answered: 401, 500 or 200).

    It refuses everybody until `allowed` is set in the counter; then each request is refused once, and answered after that.
    """
    answered: Counter[str] = Counter()
    seen: set[str] = set()

    class Handler(ChatHandler):
        def answer(self, body: bytes) -> None:
            given, prompt = self.headers["Authorization"], json.loads(body)["messages"][-1]["content"]
            assert given == f"Bearer {KEY}"
            key = hashlib.sha256(body).hexdigest()
            status = 401 if not answered["allowed"] else 200 if key in seen else 500
            if status == 500:
                seen.add(key)
            answered[str(status)] += 1
            if status == 200:
                self.reply(completion(fair("0" * 8, prompt)), X_Sent=given)
            else:
                self.reply({"error": {"message": f"you sent {given}"}}, status, f"you sent {given}", X_Sent=given)

    with running(Handler) as url:
        yield url, answered


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{**row, "text": str(row["text"])[:400]} for row in sample_texts()[:10]]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    llm = {"url": "http://127.0.0.1:9", "model": "stub", "api_key_variable": "WRITER_KEY", "max_tokens": 400}
    changes = {"synthesis": {"llm": llm, "attempts": 0}, "score": {"classifiers": ["fasttext"]}}
    return write_recipe(tmp_path / "recipe.yaml", tmp_path / "texts.jsonl", **changes)


def assert_no_secret(folder: Path, printed: str) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for secret in SECRETS.values():
        assert secret not in printed
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


def test_a_run_that_uses_a_key_writes_it_nowhere(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with talkative_server() as (url, answered):
        arguments = ("run", recipe, "--output", run, *STAGES, "--set", f"synthesis.llm.url={url}")
        for expected in (1, 0):
            done = subprocess.run(
                command(*arguments), capture_output=True, text=True, cwd=ROOT, env={**os.environ, **SECRETS}
            )
            assert done.returncode == expected, done.stdout + done.stderr
            assert_no_secret(run, done.stdout + done.stderr)
            answered["allowed"] = 1
    assert "answered HTTP 401: the key is missing or wrong" not in done.stdout
    assert answered["401"] and answered["500"] and answered["200"], "it failed with the key, and then it worked"
    assert "WRITER_KEY" in (run / "recipe.yaml").read_text()


def test_the_scripts_for_slurm_hold_no_key(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    run = RunFolder(tmp_path / "run")
    loaded = load_recipe(recipe, ["execution.executor=slurm"])
    for stage in build_stages(loaded, run, []):
        script = StageScript(stage, loaded.execution.slurm.of_stage(stage.name)).text(force_stale=False)
        assert "slurm_task" in script and not any(secret in script for secret in SECRETS.values())
