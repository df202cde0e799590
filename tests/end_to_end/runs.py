"""Small corpora and runs through the command line, for the tests in this folder."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from safetrove.sample.pages import read_pages

ROOT = Path(__file__).resolve().parent.parent.parent

# What runs write besides their results: names, times and places that no other run has to share.
NOT_RESULTS = ("logs/", "manifests/", "work/", "recipe.yaml", "inputs.json", ".lock")


def sample_texts() -> list[dict[str, object]]:
    """Short texts of all levels: beginnings of every fourth well-formed English page of the sample corpus."""
    pages = [page for page in read_pages() if page.language == "en" and not page.malformed and page.body]
    return [{"id": page.url, "text": page.body[:900], "url": page.url} for page in pages[::4]]


def write_sources(folder: Path, shards: int) -> Path:
    """`shards` JSON-lines files (one gzipped) of the sample texts."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = sample_texts()
    for shard in range(shards):
        content = "".join(json.dumps(row) + "\n" for row in rows[shard::shards]).encode()
        if shard == 0:
            (folder / "part-0.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / f"part-{shard}.jsonl").write_bytes(content)
    return folder


def write_recipe(path: Path, texts: Path, **changes: object) -> Path:
    """A recipe without a language model; `changes` are top-level sections."""
    recipe = {
        "name": "test",
        "sources": [{"name": "texts", "format": "jsonl", "path": str(texts), "licence": "Apache-2.0"}],
        "synthesis": None,
        "execution": {"workers": 2},
        **changes,
    }
    path.write_text(yaml.safe_dump(recipe))
    return path


def command(*arguments: object) -> list[str]:
    """The command line as a user types it."""
    return [sys.executable, "-m", "safetrove", *map(str, arguments)]


def safetrove(*arguments: object, expect: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run a command; fail with its output where the exit code is another one."""
    result = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, timeout=900)
    assert expect is None or result.returncode == expect, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def results(run: Path) -> dict[str, str]:
    """Relative path -> sha256 of every result file of a run."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_file() and not name.startswith(NOT_RESULTS):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def kill_in_stage(run: Path, stage: str, *arguments: object) -> None:
    """Start a command and kill it, with SIGKILL and without its children, once `stage` has begun a shard's output."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    log = run / "logs" / stage / "logs"
    try:
        while process.poll() is None and not (log.is_dir() and any(log.iterdir())):
            os.sched_yield()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
