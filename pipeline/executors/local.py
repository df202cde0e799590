"""Worker processes on this machine. One failing or dying shard fails alone; its siblings finish.

datatrove's own pool tears all ranks down when one raises, and waits for ever when a worker is killed (out of memory).
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from classifiers.errors import SafetroveError
from pipeline.executors.die_with_parent import die_with_parent
from pipeline.executors.shard_run import ShardMemoryError, run_shard
from pipeline.shard_task import failure_message, write_failure
from pipeline.stage import Stage

Job = tuple[int, dict[str, Any]]  # shard, identity
Event = Callable[[str, int, Any], None]  # "progress" | "done" | "failed", shard, rows | rows | message


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None  # what it was given and has not reported the end of
    begun: bool = False  # whether it said that it works on that
    proven: bool = False  # whether it came to the end of a shard before

    @property
    def died_between_shards(self) -> bool:
        """Whether the end of its process is nothing against the shard that it was given last."""
        return self.proven and not self.begun


def run_local(stage: Stage, jobs: list[Job], on_event: Event) -> list[int]:
    """Run the jobs on `stage.workers` processes; return the shards that failed (each with its failure file)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.executors.fork_server"])
    waiting = list(reversed(jobs))
    failed: list[int] = []
    workers = [_start(context, stage) for _ in range(min(stage.workers, len(jobs)))]
    try:
        for worker in workers:
            _give(worker, waiting)
        while workers:
            ready = wait([w.pipe for w in workers])
            for worker in [w for w in workers if w.pipe in ready]:
                try:
                    kind, shard, value = worker.pipe.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    if worker.job is not None and worker.died_between_shards:
                        waiting.append(worker.job)
                    elif worker.job is not None:
                        failed.append(worker.job[0])
                        on_event("failed", worker.job[0], _died(stage, worker, worker.job[0]))
                    if waiting:
                        workers.append(_start(context, stage))
                        _give(workers[-1], waiting)
                    continue
                if kind == "begun":
                    worker.begun = True
                    continue
                on_event(kind, shard, value)
                if kind == "progress":
                    continue
                if kind == "failed":
                    failed.append(shard)
                worker.proven = True
                _give(worker, waiting)
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()
    return sorted(failed)


def _start(context: Any, stage: Stage) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(stage, theirs), daemon=False)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _give(worker: _Worker, waiting: list[Job]) -> None:
    """Hand the worker its next shard, or None: then it closes its context and ends, and its pipe reports the end."""
    worker.job, worker.begun = waiting.pop() if waiting else None, False
    with contextlib.suppress(OSError):  # it is dead: its pipe reports that too
        worker.pipe.send(worker.job)


def _died(stage: Stage, worker: _Worker, shard: int) -> str:
    worker.process.join()
    code = worker.process.exitcode or 0
    if code < 0:
        what = f"its worker was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            what += "; if the system ran out of memory, lower execution.workers in the recipe"
    else:
        what = f"its worker ended with exit code {code}"
    write_failure(stage.run, stage.name, shard, SafetroveError(what))
    return what


def _work(stage: Stage, pipe: Connection) -> None:
    """A worker's life: one context for the stage, then shard after shard until None comes."""
    from pipeline.executors.fork_server import FORK_SERVER_PID

    die_with_parent()
    if os.getppid() != FORK_SERVER_PID:  # the run died before the line above took effect, a job is already in the pipe
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _errors_to_log(stage)

    def progress(_: str, shard: int, rows: int) -> None:
        pipe.send(("progress", shard, rows))

    with contextlib.ExitStack() as stack:
        context_error: Exception | None = None
        try:
            stack.enter_context(stage.worker_context())
        except Exception as error:  # reported by each shard: a server that does not start is not tried once a shard
            context_error = error
        while (job := pipe.recv()) is not None:
            shard, identity = job
            pipe.send(("begun", shard, None))
            try:
                stage.run.failure(stage.name, shard).unlink(missing_ok=True)  # of an earlier try
                if context_error is not None:
                    raise context_error
                manifest = run_shard(stage, shard, identity, progress)
            except SystemExit:  # SIGTERM: the run was stopped, and the shard is as if it had not begun
                stage.run.failure(stage.name, shard).unlink(missing_ok=True)
                raise
            except Exception as error:
                if not stage.run.failure(stage.name, shard).is_file():
                    write_failure(stage.run, stage.name, shard, error)
                message = failure_message(error)
                pipe.send(("failed", shard, message))
                if isinstance(error, ShardMemoryError):
                    return  # a new worker takes the next shard
            else:
                pipe.send(("done", shard, manifest.rows.rows_in))


def _errors_to_log(stage: Stage) -> None:
    """Send what libraries print to standard error into a log of the stage: the terminal belongs to the progress table."""
    folder = stage.run.logs(stage.name)
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / f"worker-{os.getpid()}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
