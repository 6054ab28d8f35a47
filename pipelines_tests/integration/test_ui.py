"""What `make ui` starts ends with it, however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from dermatome.errors import StorageFailed
from orchestration import ui
from orchestration.instance import only_platform

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

_PLATFORM = """
import time
from orchestration.instance import only_platform
with only_platform():
    print(flush=True)
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


def test_a_second_platform_over_one_storage_is_refused_with_the_pid_of_the_first(tmp_path, monkeypatch, capsys):
    storage = tmp_path / "dagster"
    monkeypatch.setenv("DERMATOME_DATA", str(tmp_path))
    monkeypatch.setenv("DERMATOME_DAGSTER_STORAGE", str(storage))
    monkeypatch.setattr(sys, "argv", ["ui", "--port", "0"])
    monkeypatch.setattr(ui.signal, "signal", lambda *_: None)
    with subprocess.Popen([sys.executable, "-c", _PLATFORM], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "\n"
        for _ in range(2):
            assert ui.main() == 1
            said = capsys.readouterr().err
            assert f"Another platform runs over {storage} (process {first.pid} on " in said
            assert said.count("\n") == 1
        first.kill()
        first.wait()
    for _ in range(2):
        with only_platform():  # the lock of a killed process is free
            assert (storage / "platform.pid").read_text().startswith(f"{os.getpid()} on ")
            with pytest.raises(StorageFailed, match=f"process {os.getpid()} on"), only_platform():
                pass
    assert not (storage / "platform.pid").exists()


def test_a_port_that_cannot_be_used_is_said_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DERMATOME_DATA", str(tmp_path))
    monkeypatch.setattr(ui.signal, "signal", lambda *_: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for given in (port, 70_000):
            monkeypatch.setattr(sys, "argv", ["ui", "--port", str(given)])
            assert ui.main() == 1
            assert f"Port {given} of 127.0.0.1 cannot be used" in (said := capsys.readouterr().err)
            assert f"PORT={given + 1}" in said


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
