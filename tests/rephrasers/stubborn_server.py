"""A server as bad as they come: `stubborn_server.py FIFO`. It starts a child that starts one in a session of its own, both deaf
to SIGTERM, and writes the three process ids into FIFO. On SIGUSR1 it ends with status 3, and leaves them behind.
"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    pids, ready = os.pipe()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            os.write(ready, f"{os.getppid()} {os.getpid()}".encode())
        while True:
            signal.pause()
    with open(sys.argv[1], "w") as fifo:  # noqa: PTH123
        fifo.write(f"{os.getpid()} {os.read(pids, 100).decode()}")
    signal.sigwait([signal.SIGUSR1])
    sys.exit(3)
