"""Where everything lies in a run folder (design, section 3). One place for all names."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from classifiers.errors import DataError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_FORBIDDEN = (errno.EACCES, errno.EPERM)


STAGE_FOLDERS = (
    *("ingested", "duplicates", "documents", "embeddings", "scores", "drafts", "rejected", "synthetic", "tagged"),
    *("tokens", "card_counts", "quarantine", "manifests", "work", "logs"),
)
"""Where stages write. The other folders of a run belong to commands that need not hold it: card, export, publish."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run; paths in manifests are relative to `root`."""

    root: Path

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    def manifest(self, stage: str, shard: int) -> Path:
        return self.root / "manifests" / stage / f"{shard:05d}.json"

    def failure(self, stage: str, shard: int) -> Path:
        """Exists while the last try of a shard failed: one JSON file with the error's kind and message."""
        return self.root / "manifests" / stage / f"{shard:05d}.failed.json"

    def quarantine(self, stage: str, shard: int) -> Path:
        return self.root / "quarantine" / stage / f"{shard:05d}.jsonl"

    def logs(self, stage: str) -> Path:
        return self.root / "logs" / stage

    def work(self, stage: str, shard: int) -> Path:
        """Answers of an LLM and other half-done work of one shard; removed once the shard is finished."""
        return self.root / "work" / stage / f"{shard:05d}"

    def shard_lock(self, stage: str, shard: int) -> Path:
        """Held by the task that works on the shard (executors/shard_lock.py)."""
        return self.root / "work" / stage / f"{shard:05d}.lock"

    def blend(self) -> Path:
        return self.root / "tokens" / "blend.json"

    def tokenizer(self) -> Path:
        return self.root / "tokens" / "tokenizer"

    def relative(self, path: Path) -> str:
        """The path as manifests name it. Raises ValueError where it is outside of the run."""
        root, whole = f"{self.root.as_posix()}/", path.as_posix()
        if whole.startswith(root):
            return whole[len(root) :]
        return path.relative_to(self.root).as_posix()

    def finished_and_failed(self, stage: str) -> tuple[set[int], set[int]]:
        """The shards of a stage that have a manifest, and those that have a failure file, by one look at the folder."""
        finished: set[int] = set()
        failed: set[int] = set()
        try:
            names = os.listdir(self.root / "manifests" / stage)  # noqa: PTH208 (a Path a name costs more than the look)
        except FileNotFoundError:
            return finished, failed
        for name in names:
            number, _, rest = name.partition(".")
            if not number.isdigit():
                continue
            if rest == "json":
                finished.add(int(number))
            elif rest == "failed.json":
                failed.add(int(number))
        return finished, failed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; a second command on the same folder is refused with the holder's pid.

        Raises DataError also where the folder cannot be written, now or while it is held.
        """
        with self._writable(*_FORBIDDEN):
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 32).decode().strip() or "unknown"
                raise DataError(
                    f"{self.root}: another command (process {holder}) is working on this run; wait for it or stop it"
                ) from None
            with self._writable():
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _writable(self, *more: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (*_UNWRITABLE, *more):
                raise
            raise DataError(
                f"{error.filename or self.root}: cannot be written ({error.strerror}). Free space under {self.root}, raise "
                "the quota or mend its permissions, then give the same command again: what is finished stays"
            ) from error
