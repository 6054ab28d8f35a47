"""Runs benchmarks, each in a process of its own, and writes one table of their rows."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipelines_tests.benchmarks import BENCHMARKS, measure
from pipelines_tests.benchmarks.machine import this_machine
from pipelines_tests.benchmarks.rows import Row, not_measured
from pipelines_tests.benchmarks.table import write

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the requested benchmarks.

    Returns:
        0 where each ran to its end, whether or not it met its target; 1 where one crashed.
    """
    parser = argparse.ArgumentParser(prog="python -m pipelines_tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHMARKS)}; all where none is given")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks"), help="folder for the table")
    parser.add_argument("--toy", action="store_true", help="tiny sizes: shows that it runs, measures nothing")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # one benchmark, in this very process
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}: choose from {', '.join(BENCHMARKS)}")
    if given.rows:
        (name,) = given.names
        with given.rows.open("w") as written:
            for row in measure(name, given.toy):
                # At once, so that a benchmark that is ended leaves what it has.
                print(json.dumps(asdict(row)), file=written, flush=True)
        return 0
    machine, rows, failed = this_machine(), list[Row](), list[str]()
    for name in given.names or BENCHMARKS:
        start = time.perf_counter()
        print(f"{name} …", flush=True)
        status, found = _run(name, given.toy)
        rows += found
        if status:
            failed.append(name)
        for row in found:
            print(f"    {_in_a_line(row)}")
        print(f"    {time.perf_counter() - start:.0f} s", flush=True)
        # After each, so that an interrupted run leaves what it has.
        write(rows, machine, given.out)
    print(f"Wrote benchmarks.md and benchmarks.parquet to {given.out}.")
    if failed:
        print(f"These did not come to their end: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, toy: bool) -> tuple[int, list[Row]]:
    """A benchmark's exit status and rows; one that crashed has those from before, and a row that says so."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "rows.jsonl"
        command = [sys.executable, "-m", "pipelines_tests.benchmarks", name, "--rows", str(answer)]
        done = subprocess.run([*command, *(["--toy"] if toy else [])], cwd=ROOT, capture_output=True, text=True)
        lines = answer.read_text().splitlines(keepends=True) if answer.exists() else []
    rows = [Row(**json.loads(line)) for line in lines if line.endswith("\n")]
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        rows.append(not_measured(name, f"ended with status {done.returncode}"))
    return done.returncode, rows


def _in_a_line(row: Row) -> str:
    met = "" if row.met is None else " met" if row.met else " MISSED"
    ratio = "" if row.ratio is None else f"{row.ratio:.3g}"
    return " ".join(f"{row.name}: {ratio} (target {row.target or 'none'}{met}) {row.note}".split())


if __name__ == "__main__":
    sys.exit(main())
