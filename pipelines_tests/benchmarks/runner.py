"""Runs one benchmark in a process of its own, so that memory, threads and crashes stay its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipelines_tests.benchmarks.rows import Row, not_measured

ROOT = Path(__file__).resolve().parents[2]


def run_command(name: str, command: Sequence[str], timeout_s: float) -> tuple[bool, list[Row]]:
    """Runs a command that writes each row as a line of JSON to the file that follows ``--rows``, which is added to it.

    A crash or a timeout adds a row that says so to those there are, and ends what the command had started.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer, output = Path(folder) / "rows.jsonl", Path(folder) / "output.txt"
        with output.open("wb") as written:
            process = subprocess.Popen(
                [*command, "--rows", str(answer)], cwd=ROOT, stdout=written, stderr=written, start_new_session=True
            )
            try:
                code: int | None = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end(process)
        lines = answer.read_text().splitlines(keepends=True) if answer.exists() else []
        rows = [Row(**json.loads(line)) for line in lines if line.endswith("\n")]
        if code == 0:
            return True, rows
        text = output.read_text(errors="replace").strip()
        print(text[-4000:], file=sys.stderr)
        how = f"by signal {-code}" if code is not None and code < 0 else f"with status {code}"
        last = without_paths(text.splitlines()[-1])[:200] if text else "it wrote nothing"
        why = f"ended after {timeout_s:g} s" if code is None else f"failed {how}: {last}"
        return False, [*rows, not_measured(name, why)]


def without_paths(text: str) -> str:
    """``text`` without the folders of any path in it, for a table may be published."""
    return re.sub(r"(?:/[^\s'\":,()]+)+/", "…/", text)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a benchmark and all that it started, which are one process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
