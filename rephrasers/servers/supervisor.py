"""Runs a server so that nothing of it outlives the process that wanted it, even where that one is ended by SIGKILL.

Run as a script: `python supervisor.py PARENT_PID GRACE_SECONDS COMMAND [ARGUMENT ...]`; standard library alone. The kernel
tells a process of its parent's end, but not that one's children: vLLM's engine would live on and keep its GPU. So the
supervisor is told, and ends all descendants of its own: orphans become its children (a "subreaper"), whatever session or
group they moved to. It ends as the server ended, by the same status or signal.

Linux only (`prctl`, `/proc`); elsewhere the command takes this process's place, and the starting process stops its group.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_POLL_SECONDS = 0.1
# What is still there so long after SIGKILL hangs in the kernel: waiting on would help nobody.
_KILL_SECONDS = 30.0


def main() -> None:
    """Starts the command, waits for its end or for a signal to stop, ends what is left, and ends like the command."""
    parent, grace, command = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    if not sys.platform.startswith("linux"):
        os.execvp(command[0], command)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP_SIGNALS, signal.SIGCHLD})
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)  # it died before the request took effect: nobody is left to serve
    server = Server(command)
    while server.status is None and signal.sigwait({*STOP_SIGNALS, signal.SIGCHLD}) == signal.SIGCHLD:
        server.reap()
    if server.status is None:
        server.end_all(signal.SIGTERM, grace)
    server.end_all(signal.SIGKILL, _KILL_SECONDS)
    _end_like(server.status)


class Server:
    """The command's process and its descendants. status: its wait status, None while it runs."""

    def __init__(self, command: list[str]):
        self.status: int | None = None
        supervisor = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _become(command, supervisor)

    def reap(self) -> None:
        """Takes note of every child that has ended, adopted ones among them."""
        with suppress(ChildProcessError):  # none is left
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.pid:
                    self.status = ended[1]

    def end_all(self, number: int, seconds: float) -> None:
        """Sends the signal to every descendant, once to each, until none is left or the time is up."""
        deadline = time.monotonic() + seconds
        told: set[int] = set()
        while (left := descendants(os.getpid())) and time.monotonic() < deadline:
            for pid in left - told:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            told |= left
            signal.sigtimedwait({signal.SIGCHLD}, _POLL_SECONDS)
            self.reap()


def descendants(root: int) -> set[int]:
    """Process ids of the living descendants of a process, as /proc shows them now."""
    children: dict[int, list[int]] = {}
    ended = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            stat = (entry / "stat").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):  # it ended in between
            continue
        state, parent = stat.rpartition(")")[2].split()[:2]  # the name before it may hold anything
        children.setdefault(int(parent), []).append(int(entry.name))
        if state in "ZX":
            ended.add(int(entry.name))
    found, waiting = set(), [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found - ended


def _become(command: list[str], supervisor: int) -> None:
    """In the child: the command, which the kernel ends with its supervisor."""
    try:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == supervisor:
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and the command would too
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
    finally:
        os._exit(127)


def _end_like(status: int | None) -> None:
    if status is None:
        sys.exit(1)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the core, if any, is the server's
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    sys.exit(os.waitstatus_to_exitcode(status))


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


if __name__ == "__main__":
    main()
