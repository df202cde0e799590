"""A training that is killed leaves no worker behind: real processes, real signals."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from classifiers.training.worker_pool import worker_pool

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 30  # for a loaded machine; the kernel needs none

TRAINING = """
import os, time
from classifiers.training.worker_pool import worker_pool

def train_for_ever():
    os.write(1, f"{os.getpid()}\\n".encode())  # at once: two processes write to the same pipe
    time.sleep(600)

if __name__ == "__main__":
    with worker_pool(2) as pool:
        for future in [pool.submit(train_for_ever) for _ in range(2)]:
            future.result()
"""

needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel of Linux")


def ended(pidfds: list[int]) -> bool:
    return all(select.select([pidfd], [], [], SECONDS)[0] for pidfd in pidfds)


@needs_linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_training_that_is_killed(tmp_path, number):
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    training = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    workers = []
    try:
        assert training.stdout is not None
        workers = [os.pidfd_open(int(training.stdout.readline())) for _ in range(2)]
        assert not select.select(workers, [], [], 0)[0], "they are at work"
        training.send_signal(number)
        assert training.wait(SECONDS) == -number
        assert ended(workers)
    finally:
        for pidfd in workers:
            if not select.select([pidfd], [], [], 0)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        training.kill()
        training.wait()
        if training.stdout is not None:
            training.stdout.close()


@needs_linux
def test_a_worker_that_starts_after_its_parent_died_ends_at_once():
    command = "from classifiers.training.worker_pool import end_with_parent; end_with_parent(-1); print('goes on')"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "")


def test_the_pool_works_and_hands_errors_on():
    with worker_pool(1) as pool:
        assert pool.submit(abs, -3).result() == 3
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
