"""The harness of the benchmarks, and that each of them runs. What they measure is for `make bench` to say."""

import json
import math
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines_tests.benchmarks import BENCHMARKS, measure, runner
from pipelines_tests.benchmarks.__main__ import main
from pipelines_tests.benchmarks.gpu import NAMES, on_device
from pipelines_tests.benchmarks.machine import Machine, this_machine
from pipelines_tests.benchmarks.rows import (
    Row,
    at_most_more,
    below,
    not_measured,
    share_of_rate,
    times_faster,
    times_the_cost,
)
from pipelines_tests.benchmarks.table import markdown, write

MACHINE = Machine("A processor", 2, ("avx2",), 24.0, (), "Linux, x86_64", {"torch": "2.13.0"})


# These take half a minute and more even at toy size, and what they run has tests: `make bench ROWS="--toy cells …"`.
LONG = {"cells", "memory", "memory_cells", "slide_keys_postgres"}


@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - LONG))
def test_each_benchmark_runs_at_toy_size(name: str) -> None:
    found = list(measure(name, True))
    assert found
    for row in found:
        assert row.name
        assert row.ours is None or math.isfinite(row.ours)
        assert row.ours is not None or row.note, f"{row.name} says neither a number nor why there is none"
        assert (row.met is None) == (row.target == "" or row.ours is None)


def test_what_is_measured_on_a_gpu_runs_on_a_processor_too() -> None:
    found = list(on_device("cpu", "a processor", 1, True))
    assert [row.name.split(" over ")[0] for row in found] == list(NAMES)
    for row in found:
        assert row.ratio is not None
        assert row.ratio > 0
        assert row.note.startswith("a processor, backend ")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (times_faster("a", "b", 1.0, 6.0, at_least=5), times_faster("a", "b", 1.0, 4.0, at_least=5)),
        (times_the_cost("a", "b", 1.1, 1.0, at_most=1.15), times_the_cost("a", "b", 1.2, 1.0, at_most=1.15)),
        (
            share_of_rate("a", "b", 6.0, 10, "MB/s", at_least=0.5),
            share_of_rate("a", "b", 4.0, 10, "MB/s", at_least=0.5),
        ),
        (at_most_more("a", "b", 1.05, 1.0, "s", more=0.1), at_most_more("a", "b", 1.2, 1.0, "s", more=0.1)),
        (below("a", 3.0, "GB", at_most=4), below("a", 5.0, "GB", at_most=4)),
    ],
)
def test_ratios_point_the_way_their_target_does(good: Row, bad: Row) -> None:
    assert good.met
    assert not bad.met


def test_the_table_says_the_same_as_text_and_as_parquet(tmp_path: Path) -> None:
    written = [
        times_faster("tiles", "one | by one", 1.0, 4.0, at_least=5, bare="0.9 s", note="two\nlines"),
        not_measured("GPU", "no GPU here", target="≥ 0.8"),
    ]
    text, data = write(written, MACHINE, tmp_path / "out")
    assert text.read_text() == markdown(written, MACHINE)
    assert "| tiles | one / by one | 1 s | 4 s | 4 | ≥ 5 × faster | **no** | 0.9 s | two lines |" in text.read_text()
    assert "| GPU |  | – | – | – | ≥ 0.8 | – |  | no GPU here |" in text.read_text()
    table = pq.read_table(data)
    assert [Row(**row) for row in table.to_pylist()] == written
    assert json.loads(table.schema.metadata[b"machine"])["cores"] == 2


def test_the_machine_is_described_without_its_name() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_gib > 0
    assert machine.versions["torch"]
    assert str(Path.home()) not in machine.sentences()


def test_a_benchmark_that_crashes_is_a_row_without_paths(capsys: pytest.CaptureFixture[str]) -> None:
    script = "raise OSError(28, 'No space left', '/secret/folder/file.bin')"
    ran, found = runner.run_command("broken", [sys.executable, "-c", script], 60)
    assert not ran
    assert [row.name for row in found] == ["broken"]
    assert "failed with status 1" in found[0].note
    assert "No space left" in found[0].note
    assert "secret" not in found[0].note
    assert "/secret/folder" in capsys.readouterr().err
    ran, (row,) = runner.run_command("killed", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], 60)
    assert (ran, row.note) == (False, "failed by signal 9: it wrote nothing")


def test_the_command_runs_what_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hpa_pages", "--toy", "--out", str(tmp_path)]) == 0
    assert pq.read_table(tmp_path / "benchmarks.parquet").num_rows == 1
    with pytest.raises(SystemExit):
        main(["nothing", "--out", str(tmp_path)])
    assert "there is no benchmark nothing: choose from" in capsys.readouterr().err
