"""What `make ui` starts ends with it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
_HOLDER = """
import signal, sys, time
from orchestration.ui import _process
for number in (signal.SIGINT, signal.SIGTERM):  # as where a script's shell started it in the background
    signal.signal(number, signal.SIG_IGN)
with _process([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
    print(child.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the children of a killed process")
def test_a_killed_ui_leaves_no_daemon_behind():
    with subprocess.Popen([sys.executable, "-c", _HOLDER], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as holder:
        child = psutil.Process(int(holder.stdout.readline()))
        assert child.is_running()
        os.kill(holder.pid, signal.SIGKILL)
        until = time.monotonic() + 90
        while _is_alive(child) and time.monotonic() < until:
            time.sleep(0.05)
        assert not _is_alive(child)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
