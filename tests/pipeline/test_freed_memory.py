"""Workers give back what they free: large blocks between small ones that stay."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

MEBIBYTES = 64
SCRIPT = f"""
import sys
if sys.argv[1] == "worker":
    import pipeline.executors.fork_server

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

before = resident()
first = bytearray(b"1") * (3 << 20)
del first  # from here on glibc, left to itself, takes blocks of this size from the heap
large, small = [], []
for _ in range({MEBIBYTES} // 2):
    large.append(bytearray(b"1") * (2 << 20))
    small.append(bytearray(5000))
large.clear()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_worker_returns_large_blocks():
    def left(kind):
        root = Path(__file__).parent.parent.parent
        command = [sys.executable, "-c", SCRIPT, kind]
        return float(subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout)

    assert left("plain") > MEBIBYTES * 0.7, "the case shows nothing"
    assert left("worker") < MEBIBYTES * 0.1
