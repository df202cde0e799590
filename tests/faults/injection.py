"""Faults that strike inside a worker, at the n-th step of the product's own code in one shard.

A step is an event of `sys.setprofile` in a frame of the rooms: a call, a return, or a call into C such as fsync, rename
or a library's write. So a fault can stand between any two operations, and a seed finds the same place again.
"""

import errno
import os
import resource
import signal
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from pipeline.atomic_files import publish_file
from pipeline.shard_task import ShardTask
from pipeline.stage import Stage
from tests.conftest import ROOT

Kind = Literal["kill", "terminate", "memory", "full_disk", "read_only", "stale_handle"]
KINDS: tuple[Kind, ...] = ("kill", "kill", "kill", "terminate", "memory", "full_disk", "read_only", "stale_handle")
"""Drawn from evenly: kills stand here three times."""

# Where steps count: in the part that makes files final, or anywhere in the rooms that a worker runs.
COMMIT = tuple(str(ROOT / "pipeline" / name) for name in ("shard_task.py", "atomic_files.py", "manifest.py"))
ANYWHERE = tuple(str(ROOT / room) + os.sep for room in ("pipeline", "rephrasers", "classifiers"))
_ERRORS = {"read_only": errno.EROFS, "stale_handle": errno.ESTALE}


@dataclass(frozen=True)
class Fault:
    """kind, at step `step` of `files` in one shard of a stage; `mark` is created at the moment at which it strikes."""

    kind: Kind
    shard: int
    files: tuple[str, ...]
    step: int
    mark: Path


def arm(stage: Stage, fault: Fault) -> None:
    """Have the fault strike in the worker that runs this object's shard."""
    stage.steps = partial(_steps_under_fault, type(stage), stage, fault)  # type: ignore[method-assign]


def _steps_under_fault(cls: type[Stage], stage: Stage, fault: Fault, task: ShardTask) -> list[Any]:
    if task.shard == fault.shard:
        sys.setprofile(_Striker(fault))
    return cls.steps(stage, task)


def count(stage: Stage, file: Path) -> None:
    """Have the worker append to `file` for each shard: its number, steps in COMMIT, steps ANYWHERE, and at which step in
    COMMIT the first file has its final name."""
    stage.steps = partial(_steps_counted, type(stage), stage, file)  # type: ignore[method-assign]


def _steps_counted(cls: type[Stage], stage: Stage, file: Path, task: ShardTask) -> list[Any]:
    commit = anywhere = published = 0

    def step(frame: FrameType, event: str, _: Any) -> None:
        nonlocal commit, anywhere, published
        name = frame.f_code.co_filename
        commit += name in COMMIT
        anywhere += name.startswith(ANYWHERE)
        if event == "return" and frame.f_code is publish_file.__code__:
            published = published or commit
        if event == "return" and frame.f_code is ShardTask.commit.__code__:
            sys.setprofile(None)
            with file.open("a") as lines:
                lines.write(f"{task.shard} {commit} {anywhere} {published}\n")

    sys.setprofile(step)
    return cls.steps(stage, task)


class _Striker:
    def __init__(self, fault: Fault):
        self.fault, self.left = fault, fault.step

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if not frame.f_code.co_filename.startswith(self.fault.files):
            return
        self.left -= 1
        if self.left == 0:
            sys.setprofile(None)
            self.fault.mark.touch()
            strike(self.fault.kind)


_hoarded: list[bytearray] = []


def strike(kind: Kind) -> None:
    """What the fault does, here and now."""
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind == "memory":
        _exhaust_memory()
    elif kind == "full_disk":  # no file may grow any further; the failure cannot be recorded either
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    else:
        raise OSError(_ERRORS[kind], os.strerror(_ERRORS[kind]))


def _exhaust_memory() -> None:
    """Give this process no more address space and take what it has left, but for less than a mebibyte."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used, resource.getrlimit(resource.RLIMIT_AS)[1]))
    while True:
        _hoarded.append(bytearray(1 << 20))
