"""Whether processes still run: read from the kernel, without waiting for longer than they take to end."""

import os
import select
from pathlib import Path


def is_running(pid: int) -> bool:
    """False for one that has ended, also where nobody has asked for its exit status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_end(pid: int) -> None:
    """Returns when the process, anybody's child, has ended: a pidfd becomes readable then. Fails after 30 s."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    readable, _, _ = select.select([descriptor], [], [], 30)
    os.close(descriptor)
    assert readable, f"process {pid} still runs"
