"""A server ends with all that it started, however it ends and however the process ends that wanted it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rephrasers.servers.process import ServerCommand, ServerProcess
from tests.rephrasers.processes import is_running, wait_for_end

ROOT = Path(__file__).resolve().parents[2]
STUBBORN = Path(__file__).with_name("stubborn_server.py")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl and /proc are Linux's")


@pytest.fixture
def fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


@pytest.fixture
def short_grace(monkeypatch):
    monkeypatch.setattr("rephrasers.servers.process._GRACE_SECONDS", 0.2)


def start(tmp_path, *arguments):
    command = ServerCommand([sys.executable, *map(str, arguments)])
    return ServerProcess("test", command, "http://127.0.0.1:9", tmp_path / "server.log")


def pids_in(fifo):
    return [int(pid) for pid in fifo.read_text().split()]


CLIENT = """
import sys, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # batch systems start commands with SIGINT ignored
from pathlib import Path
from rephrasers.servers import ServerSettings, process, serving
import rephrasers.servers.open_servers as module
process._GRACE_SECONDS = 0.2
command = process.ServerCommand([sys.executable, *sys.argv[2:]])
module.transformers_command = lambda *_: command
module.ServerProcess.wait_until_healthy = lambda *_: None
module.warm_up = lambda *_: None
module.resolve_model = lambda name: module.ModelReference(".", "r", "d")
settings = ServerSettings(kind="transformers")
with serving(settings, Path(sys.argv[1])):
    print(module.open_server(settings).process.pid, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_all_of_it_dies_with_its_client(tmp_path, fifo, ending):
    command = [sys.executable, "-c", CLIENT, tmp_path / "log", STUBBORN, fifo]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    pids = [int(client.stdout.readline()), *pids_in(fifo)]
    assert len(pids) == 4 and all(map(is_running, pids))
    client.send_signal(ending)
    client.wait(timeout=60)
    client.stdout.close()
    for pid in pids:
        wait_for_end(pid)
    assert client.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: -2}[ending]


def test_stop_ends_what_is_deaf_and_what_left_the_group(tmp_path, fifo, short_grace):
    process = start(tmp_path, STUBBORN, fifo)
    pids = pids_in(fifo)
    assert os.getsid(pids[2]) != os.getsid(pids[1]) == process.pid
    process.stop()
    assert process.has_ended() and not any(map(is_running, pids))
    process.stop()


def test_a_server_deaf_to_sigterm_is_killed_after_its_grace(tmp_path, fifo, short_grace):
    script = "import signal, sys; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'w').write('0'); signal.pause()"
    process = start(tmp_path, "-c", script, fifo)
    assert pids_in(fifo) == [0]
    process.stop()
    assert process.exit_status() == -signal.SIGKILL


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, 3), (signal.SIGKILL, -9), (signal.SIGTERM, -15)])
def test_when_the_server_ends_by_itself_its_status_is_ours_and_its_children_go(tmp_path, fifo, number, status):
    process = start(tmp_path, STUBBORN, fifo)
    pids = pids_in(fifo)
    os.kill(pids[0], number)
    wait_for_end(process.pid)
    assert process.exit_status() == status
    assert not any(map(is_running, pids))


def test_the_server_dies_with_its_supervisor(tmp_path, fifo):
    process = start(tmp_path, STUBBORN, fifo)
    pids = pids_in(fifo)
    os.kill(process.pid, signal.SIGKILL)
    wait_for_end(pids[0])
    process.stop()
    wait_for_end(pids[1])
    assert process.exit_status() == -signal.SIGKILL
    os.kill(pids[2], signal.SIGKILL)  # it left the group: of what nobody supervises, that is beyond reach


def test_a_command_that_is_none_says_so_in_the_log(tmp_path):
    process = ServerProcess("test", ServerCommand(["/no/such/program"]), "http://127.0.0.1:9", tmp_path / "server.log")
    wait_for_end(process.pid)
    assert process.exit_status() == 127
    assert "/no/such/program: [Errno 2] No such file or directory" in (tmp_path / "server.log").read_text()
    process.stop()


def signal_sets(status):
    masks = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return {
        name: {number for number in range(1, 65) if int(masks[name], 16) >> (number - 1) & 1}
        for name in ("SigBlk", "SigIgn")
    }


def test_signals_reach_the_server_as_they_reach_other_programs(tmp_path, fifo):
    """Nothing is blocked or ignored in it that is not in this process, or that Python itself does not ignore."""
    process = start(tmp_path, "-c", "import sys; open(sys.argv[1], 'w').write(open('/proc/self/status').read())", fifo)
    server, ours = signal_sets(fifo.read_text()), signal_sets(Path("/proc/self/status").read_text())
    assert server["SigBlk"] <= ours["SigBlk"]
    assert server["SigIgn"] <= ours["SigIgn"] | {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT}
    process.stop()
