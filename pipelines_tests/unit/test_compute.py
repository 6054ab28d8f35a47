"""Several runs on one machine take a GPU each."""

import subprocess
import sys
from pathlib import Path

TWO_GPUS = """
import sys, tempfile
from types import SimpleNamespace
import torch
tempfile.tempdir = sys.argv[1]
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_properties = lambda index: SimpleNamespace(uuid=f"gpu-{index}")
from dermatome.inference.compute import free_gpu
assert free_gpu() == free_gpu(), "a process has one"
print(free_gpu(), flush=True)
sys.stdin.read()
"""


def run(folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", TWO_GPUS, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_each_process_takes_a_gpu_that_no_living_one_has(tmp_path: Path) -> None:
    first, second = run(tmp_path), None
    try:
        assert first.stdout.readline() == "0\n"
        second = run(tmp_path)
        assert second.stdout.readline() == "1\n"
        third = run(tmp_path)
        assert third.communicate("")[0] == "None\n", "with all GPUs claimed, the first one is shared"
        first.kill()
        first.wait()
        again = run(tmp_path)
        assert again.communicate("")[0] == "0\n", "a process that was killed has none"
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.communicate()
