"""Worker processes that end with the training: killed by whatever signal, it leaves none behind that trains on unseen."""

import ctypes
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

_PR_SET_PDEATHSIG = 1


def worker_pool(processes: int) -> ProcessPoolExecutor:
    """A pool of fresh interpreters, each of which ends when this process does (on Linux)."""
    return ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=end_with_parent, initargs=(os.getpid(),)
    )


def end_with_parent(parent: int) -> None:
    """Asks the system to kill this process when its parent, the process `parent`, dies; ends it where that has happened.

    Raises OSError where the system refuses. Elsewhere than on Linux nothing is asked.
    """
    if not sys.platform.startswith("linux"):
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the line above took effect
        os._exit(1)
