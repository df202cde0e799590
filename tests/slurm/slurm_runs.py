"""Runs through a real Slurm, and waiting for their jobs."""

import json
import subprocess
from pathlib import Path

from pipeline.executors.slurm_jobs import read_jobs
from pipeline.run_folder import RunFolder
from safetrove.sample.pages import read_pages
from tests.end_to_end.runs import safetrove

STAGES = [
    part
    for name in ("ingest", "dedup-find", "documents", "score-fasttext", "score-final")
    for part in ("--stage", name)
]


def write_shards(folder: Path, shards: int) -> Path:
    """The sample corpus's pages as JSON lines in `shards` files."""
    pages = [page for page in read_pages() if not page.malformed and page.body]
    folder.mkdir(parents=True)
    for shard in range(shards):
        rows = [{"id": page.url, "text": page.body[:2000], "url": page.url} for page in pages[shard::shards]]
        (folder / f"part-{shard:03d}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def wait_for_jobs(run: Path) -> None:
    """Until every array that was submitted for the run has ended, in whatever way. Slurm does the waiting."""
    jobs = ":".join(job.job for job in read_jobs(RunFolder(run)))
    subprocess.run(["srun", "--quiet", "--mem=10", f"--dependency=afterany:{jobs}", "true"], check=True, timeout=900)


def queued() -> list[str]:
    """What is left in Slurm's queue."""
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.splitlines()


def status(run: Path, expect: int) -> dict[str, dict]:
    """`safetrove status --json`: stage name -> its entry."""
    shown = json.loads(safetrove("status", run, "--json", expect=expect).stdout)
    return {stage["stage"]: stage for stage in shown["stages"]}


def manifests(run: Path) -> dict[str, tuple[str, dict]]:
    """What the manifests say apart from times: name -> (identity's hash, ledger)."""
    found = {}
    for path in sorted(run.glob("manifests/*/*.json")):
        value = json.loads(path.read_text())
        found[path.relative_to(run).as_posix()] = (value["identity_sha256"], value["rows"])
    return found
