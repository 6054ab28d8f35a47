"""How benchmarks measure: rounds that take turns, and peaks of memory in a process of their own."""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int = 3, *, warm: bool = True) -> dict[str, float]:
    """The median seconds of each way to do the work.

    They are run in turns, A B A B A B, so that a machine that slows down or is shared slows all of them alike.

    Args:
        ways: what to time, by name.
        rounds: how often each is run.
        warm: whether each is run once before, unmeasured.
    """
    if warm:
        for way in ways.values():
            way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


@dataclass(frozen=True)
class Alone:
    """What a function did in a process of its own.

    Attributes:
        value: what it returned.
        seconds: that it took, imports of its own included.
        peak_mib: the most resident memory that the process ever had.
    """

    value: Any
    seconds: float
    peak_mib: float


def run_alone(function: Callable[..., Any], *arguments: Any, timeout_s: float = 600) -> Alone:
    """Runs a module's function in a fresh Python, whose peak of memory is then the function's own.

    Args:
        function: of a module that can be imported; it is found there by its name.
        arguments: anything JSON can hold; likewise what it returns.
        timeout_s: after which it is ended.

    Raises:
        RuntimeError: it failed; with the end of what it wrote.
        subprocess.TimeoutExpired: it took too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", __name__, function.__module__, function.__qualname__]
        done = subprocess.run(
            [*command, json.dumps(arguments), str(answer)],
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        if done.returncode:
            raise RuntimeError(f"{function.__qualname__} ended with {done.returncode}: {done.stderr[-2000:]}")
        return Alone(**json.loads(answer.read_text()))


def peak_mib() -> float:
    """The most resident memory of this process so far, from Linux's /proc.

    Not ``ru_maxrss``, which a child process begins with its parent's.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _main(module: str, name: str, arguments: str, answer: str) -> None:
    function = getattr(importlib.import_module(module), name)
    start = time.perf_counter()
    value = function(*json.loads(arguments))
    alone = Alone(value, time.perf_counter() - start, peak_mib())
    Path(answer).write_text(json.dumps(alone.__dict__))


if __name__ == "__main__":
    _main(*sys.argv[1:])
