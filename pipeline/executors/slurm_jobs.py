"""The Slurm jobs of a run: which were submitted for which shards, and what Slurm says about them now."""

import getpass
import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from classifiers.errors import DataError
from pipeline.atomic_files import write_json
from pipeline.run_folder import RunFolder

# Slurm's words for a task that will still run, and what we call those that ended otherwise than well.
UNFINISHED = {
    "PENDING": "queued", "REQUEUED": "queued", "REQUEUE_HOLD": "held", "SPECIAL_EXIT": "held", "REQUEUE_FED": "queued",
    "CONFIGURING": "running", "RUNNING": "running", "COMPLETING": "running", "STAGE_OUT": "running",
    "SIGNALING": "running", "STOPPED": "suspended", "SUSPENDED": "suspended", "RESIZING": "running",
}  # fmt: skip
ENDED = {
    "FAILED": "failed", "OUT_OF_MEMORY": "out of memory", "TIMEOUT": "timed out", "CANCELLED": "cancelled",
    "NODE_FAIL": "node failed", "PREEMPTED": "preempted", "DEADLINE": "deadline passed", "BOOT_FAIL": "node failed",
    "REVOKED": "cancelled", "COMPLETED": "ended",
}  # fmt: skip
# Reasons for which a task waits that need nobody's attention.
_PATIENCE = {"None", "Priority", "Resources", "Dependency", "JobArrayTaskLimit", "BeginTime", "ReqNodeNotAvail"}


@dataclass(frozen=True)
class SlurmJob:
    """One submitted array: its tasks are the shards `first_shard + index` for each of `indices` (`0-5,9`)."""

    job: str
    stage: str
    first_shard: int
    indices: str
    user: str = field(default_factory=getpass.getuser)

    @property
    def shards(self) -> list[int]:
        return [self.first_shard + index for index in parse_indices(self.indices)]


@dataclass(frozen=True)
class TaskState:
    """What Slurm says about one shard's task: a word, whether it may still run, and why it waits where that is odd."""

    word: str
    unfinished: bool
    reason: str = ""


@dataclass
class SlurmAnswer:
    """States by (stage, shard). `unknown` says, for people, what Slurm could not be asked, or is empty."""

    tasks: dict[tuple[str, int], TaskState] = field(default_factory=dict)
    unknown: str = ""


def compact_indices(indices: Iterable[int]) -> str:
    """Ascending numbers as sbatch's `--array` takes them: [0, 1, 2, 7] -> "0-2,7"."""
    ranges: list[list[int]] = []
    for index in sorted(indices):
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def parse_indices(text: str) -> list[int]:
    """The inverse of `compact_indices`, also of Slurm's own lists: with steps (`0-8:2`); a limit on tasks at once (`%8`) is
    ignored."""
    found: list[int] = []
    for part in text.split("%")[0].split(","):
        whole, _, step = part.partition(":")
        first, _, last = whole.partition("-")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return found


def read_jobs(run: RunFolder) -> list[SlurmJob]:
    """All arrays that were submitted for a run, oldest first."""
    path = run.root / "slurm" / "jobs.json"
    return [SlurmJob(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def write_jobs(run: RunFolder, jobs: list[SlurmJob]) -> None:
    """Replace the record of submitted arrays."""
    write_json(run.root / "slurm" / "jobs.json", [asdict(job) for job in jobs])


def ask_slurm(run: RunFolder, wanted: set[tuple[str, int]] | None = None) -> SlurmAnswer:
    """What squeue, and for tasks that it has forgotten sacct, say about the newest job of each shard.

    `wanted` are the shards that are asked about (stage, shard); None: all. Nothing is asked where none was submitted.
    """
    jobs = read_jobs(run) if wanted is None or wanted else []
    newest = {(job.stage, shard): job for job in jobs for shard in job.shards}
    if wanted is not None:
        newest = {key: job for key, job in newest.items() if key in wanted}
    if not newest:
        return SlurmAnswer()
    if shutil.which("squeue") is None:
        return SlurmAnswer(unknown="Slurm cannot be asked: there is no squeue on this machine; ask on a login node")
    users = ",".join(sorted({job.user for job in jobs}))
    queue = _output("squeue", "--noheader", "--array", "--states=all", f"--user={users}", "--format=%F|%K|%T|%r")
    if queue.returncode:
        return SlurmAnswer(unknown=f"Slurm cannot be asked: {_last_line(queue.stderr)}")
    found = parse_squeue(queue.stdout)
    forgotten = sorted(
        {job.job for (_, shard), job in newest.items() if (job.job, shard - job.first_shard) not in found}
    )
    unknown = ""
    if forgotten:
        accounts = _output(
            "sacct",
            "--noheader",
            "--parsable2",
            "--allocations",
            "--format=JobID,State",
            f"--jobs={','.join(forgotten)}",
        )
        if accounts.returncode:
            unknown = (
                "Slurm no longer knows how some tasks ended: squeue forgets them after minutes and sacct says: "
                + _last_line(accounts.stderr)
            )
        else:
            found = parse_sacct(accounts.stdout) | found
    known = {key: found.get((job.job, key[1] - job.first_shard)) for key, job in newest.items()}
    return SlurmAnswer({key: state for key, state in known.items() if state is not None}, unknown)


def parse_squeue(text: str) -> dict[tuple[str, int], TaskState]:
    """(job, index) -> state, from lines `array job|index|STATE|reason`."""
    found = {}
    for line in text.splitlines():
        job, index, state, reason = line.split("|", 3)
        if index.isdigit():
            found[job, int(index)] = _state(state, reason)
    return found


def parse_sacct(text: str) -> dict[tuple[str, int], TaskState]:
    """(job, index) -> state, from lines `123_4|STATE`, `123_[5-9]|PENDING` or `123_4|CANCELLED by 1000`."""
    found = {}
    for line in text.splitlines():
        name, state = line.split("|", 1)
        job, _, indices = name.partition("_")
        if indices:
            for index in parse_indices(indices.strip("[]")):
                found[job, index] = _state(state.split()[0], "")
    return found


def _state(state: str, reason: str) -> TaskState:
    if state in UNFINISHED:
        why = reason.strip("()")
        odd = state == "PENDING" and why.split(",")[0] not in _PATIENCE  # "ReqNodeNotAvail, UnavailableNodes:n1"
        return TaskState(UNFINISHED[state], True, why if odd else "")
    return TaskState(ENDED.get(state, state.lower()), False)


def refuse_while_queued(run: RunFolder) -> None:
    """Raises DataError while tasks of the run may still run: two commands would write the same shards."""
    answer = ask_slurm(run)
    unfinished = [key for key, state in answer.tasks.items() if state.unfinished]
    if unfinished:
        jobs = sorted({job.job for job in read_jobs(run) if any((job.stage, s) in unfinished for s in job.shards)})
        raise DataError(
            f"{run.root}: {len(unfinished)} tasks of this run are still in Slurm's queue (jobs {', '.join(jobs)}); wait "
            f"for them, or stop them with: scancel {' '.join(jobs)}"
        )
    if not answer.tasks and answer.unknown.startswith("Slurm cannot be asked"):
        raise DataError(
            f"{run.root}: shards of this run were submitted to Slurm, and may still be in its queue. {answer.unknown}. "
            f"Where you know that none is, remove {run.root / 'slurm' / 'jobs.json'} and run again"
        )


def _output(*command: str) -> subprocess.CompletedProcess[str]:
    whole = {**os.environ, "SLURM_BITSTR_LEN": "0"}  # Slurm cuts long lists of indices off otherwise
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=whole)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: {error}")


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it gave no answer"
