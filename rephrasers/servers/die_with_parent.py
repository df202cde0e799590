"""Replaces itself with a command that the kernel ends when the process that started it ends, even by SIGKILL.

Run as a script: `python die_with_parent.py PARENT_PID COMMAND [ARGUMENT ...]`. A server that outlives a killed task
would keep a GPU. Linux only (`prctl`); elsewhere the command just runs, and the starting process stops it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Asks for the death signal, then becomes the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            # The parent died before the request took effect: nobody is left to serve.
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
