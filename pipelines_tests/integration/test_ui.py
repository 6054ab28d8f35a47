"""What `make ui` starts ends with it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.run_launcher import is_alive

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
        child, since = int(holder.stdout.readline()), time.time()
        assert is_alive(child, since)
        os.kill(holder.pid, signal.SIGKILL)
        until = time.monotonic() + 90
        while is_alive(child, since) and time.monotonic() < until:
            time.sleep(0.05)
        assert not is_alive(child, since)
