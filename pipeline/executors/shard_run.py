"""Run one shard through datatrove: its pipeline, its task log, then the commit."""

import errno
from collections.abc import Iterator
from typing import Any

from classifiers.errors import DataError
from pipeline.executors.shard_lock import shard_lock
from pipeline.manifest import Manifest
from pipeline.shard_task import Progress, ShardTask, no_progress
from pipeline.stage import Stage

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ShardMemoryError(DataError):
    """A shard whose process ran out of memory. Nothing else should be done in that process: threads may not start in it, and
    wait for ever."""


def run_shard(stage: Stage, shard: int, identity: dict[str, Any], progress: Progress = no_progress) -> Manifest:
    """Run one shard of a stage and commit it. On an error nothing is published, the failure is recorded and raised.

    A disk that fills, wherever a step meets it, is a DataError that says what to do; so is memory that runs out
    (ShardMemoryError), and a shard that another task holds.
    """
    try:
        with shard_lock(stage.run, stage.name, shard):
            return _run_alone(stage, shard, identity, progress)
    except OSError as error:  # of the lock's own file; `_run_alone` has told of its errors
        if error.errno in _FULL:
            raise _disk_full(stage, shard, error) from error
        raise


def _run_alone(stage: Stage, shard: int, identity: dict[str, Any], progress: Progress) -> Manifest:
    from pipeline.executors.shard_executor import ShardExecutor  # late: `status` needs none of datatrove's executors

    task = ShardTask(stage.run, stage.name, shard, identity, progress)
    try:
        task.add_raw_inputs(stage.raw_inputs(shard))
        executor = ShardExecutor(
            pipeline=stage.steps(task),
            tasks=stage.shards,
            workers=1,
            logging_dir=str(stage.run.logs(stage.name)),
            skip_completed=False,
        )
        executor._run_for_rank(shard, local_rank=1)
        return task.commit()
    except BaseException as error:
        told = _told(stage, shard, error)
        task.abandon(told)
        if told is error:
            raise
        raise told from error


def _told(stage: Stage, shard: int, error: BaseException) -> BaseException:
    if isinstance(error, OSError) and error.errno in _FULL:
        return _disk_full(stage, shard, error)
    if not any(isinstance(behind, MemoryError) for behind in _chain(error)):
        return error
    return ShardMemoryError(
        f"stage {stage.name}, shard {shard}: out of memory; lower execution.workers in the recipe, or raise the limit of the "
        "process (ulimit -v; with Slurm mem_per_cpu_gb)"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those behind it, each once: asyncio hands one error to several tasks, which makes chains with loops."""
    seen: set[int] = set()
    behind: BaseException | None = error
    while behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        yield behind
        behind = behind.__cause__ or behind.__context__


def _disk_full(stage: Stage, shard: int, error: OSError) -> DataError:
    return DataError(
        f"stage {stage.name}, shard {shard}: a file cannot be written ({error.strerror}). Free space under {stage.run.root}, "
        "or raise the quota, and run again: nothing of the shard was published, and what a language model answered is kept"
    )
