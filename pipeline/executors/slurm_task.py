"""One task of a Slurm array: `python -m pipeline.executors.slurm_task RUN STAGE`. Exit code 0 only when its shard is done.

The task reads the frozen recipe and the manifests of its inputs, nothing else of the run. The work is done in a child:
where the system kills it for its memory, the parent is left to write down why the shard failed.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from pipeline.executors.die_with_parent import die_with_parent

# Until a file written on another node must be seen here: network file systems cache names.
VISIBLE_WITHIN_SECONDS = 90.0
INTERRUPTED = 143


def main(arguments: list[str]) -> int:
    """Run the shard that Slurm's array index stands for."""
    root, stage, *options = arguments
    shard = int(os.environ["SAFETROVE_FIRST_SHARD"]) + int(os.environ["SLURM_ARRAY_TASK_ID"])
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until both processes know what to do with it
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.signal(signal.SIGTERM, _interrupt)
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            code = _work(Path(root), stage, shard, "--force-stale" in options)
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _, status = os.waitpid(child, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the child is gone: its number may be another process
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        _record_death(Path(root), stage, shard, signal.Signals(-code))
    return code if code >= 0 else 128 - code


def _interrupt(*_: int | FrameType | None) -> None:
    """SIGTERM: pre-empted, out of time or cancelled. Leave the shard as if it had not begun; Slurm knows why it ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not disturb the cleaning up
    sys.exit(INTERRUPTED)


def _work(root: Path, stage_name: str, shard: int, force_stale: bool) -> int:
    from pipeline.executors.freed_memory import return_freed_memory
    from pipeline.executors.shard_run import run_shard
    from pipeline.run import load_run_stages
    from pipeline.run_folder import RunFolder
    from pipeline.shard_state import DONE, shard_state
    from pipeline.shard_task import failure_message, write_failure

    return_freed_memory()
    run = RunFolder(root)
    failure = run.failure(stage_name, shard)
    failure.unlink(missing_ok=True)  # of an earlier try
    try:
        stage = next(stage for stage in load_run_stages(run) if stage.name == stage_name)
        await_inputs([run.manifest(name, number) for name, number in stage.inputs(shard)])
        state, identity = shard_state(run, stage, shard, force_stale)
        if state == DONE:
            print(f"stage {stage_name}, shard {shard}: done already")
            return 0
        with stage.worker_context():
            run_shard(stage, shard, identity)
    except SystemExit:
        failure.unlink(missing_ok=True)
        print(f"stage {stage_name}, shard {shard}: stopped by SIGTERM; nothing half done was published")
        raise
    except Exception as error:
        if not failure.is_file():
            write_failure(run, stage_name, shard, error)
        message = failure_message(error)
        print(f"stage {stage_name}, shard {shard}: FAILED: {message}", file=sys.stderr)
        return 1
    print(f"stage {stage_name}, shard {shard}: done")
    return 0


def await_inputs(manifests: list[Path], seconds: float = VISIBLE_WITHIN_SECONDS) -> None:
    """Wait until all are seen, at most `seconds`: a name that was looked up too early stays unknown for a while on NFS."""
    deadline = time.monotonic() + seconds
    while missing := [path for path in manifests if not path.is_file()]:
        if time.monotonic() > deadline:
            return  # `shard_state` says which one
        for folder in {path.parent for path in missing}:
            if folder.is_dir():
                os.scandir(folder).close()  # makes the client ask its server again
        time.sleep(1.0)


def _record_death(root: Path, stage: str, shard: int, killer: signal.Signals) -> None:
    from classifiers.errors import SafetroveError
    from pipeline.run_folder import RunFolder
    from pipeline.shard_task import write_failure

    what = f"its task was killed by {killer.name}"
    if killer == signal.SIGKILL:
        what += "; if it ran out of memory, raise execution.slurm.mem_per_cpu_gb for this stage"
    write_failure(RunFolder(root), stage, shard, SafetroveError(what))
    print(f"stage {stage}, shard {shard}: FAILED: {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
