"""One task a shard: a second one (a job that was requeued while its lost node still works on it) is refused."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from classifiers.errors import DataError
from pipeline.run_folder import RunFolder


@contextmanager
def shard_lock(run: RunFolder, stage: str, shard: int) -> Iterator[None]:
    """Hold one shard of a stage for this process, on every machine that sees the folder. Raises DataError where it is held.

    The lock file is removed at the end; a task that fails or is killed leaves the file, but not the lock.
    """
    path = run.shard_lock(stage, shard)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"stage {stage}, shard {shard}: another task is working on it; wait for it or stop it, then run again"
                ) from None
            if not _is_file_of(descriptor, path):
                continue  # the last holder removed the file between our two calls
            yield
            path.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)
