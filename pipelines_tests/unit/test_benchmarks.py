"""The harness of the benchmarks, and that each of them runs. What they measure is for `make bench` to say."""

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines_tests.benchmarks import BENCHMARKS, measure
from pipelines_tests.benchmarks.__main__ import main
from pipelines_tests.benchmarks.gpu import NAMES, on_device
from pipelines_tests.benchmarks.study import study_cost

# These take ten seconds and more even at toy size, and what they run has tests: `make bench ROWS="--toy cells …"`.
LONG = {"cells", "dagster_cost", "memory", "memory_cells", "slide_keys_postgres", "study"}


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


def test_a_study_costs_what_its_slides_and_runs_take():
    # 200 slides of 10 s and of four assets at 0.067 s, and four runs of 10 s, on two cores at 0.10 € an hour.
    cost = study_cost(200, 10.0, "2 cores")
    assert cost.hours == pytest.approx((2000 + 53.6 + 40) / 7200)
    assert cost.euros == pytest.approx(cost.hours * 0.1)
    assert study_cost(201, 10.0, "2 cores").hours > cost.hours + 50 / 7200
    assert study_cost(200, 10.0, "16 cores").hours == pytest.approx(cost.hours / 8)


def test_the_command_runs_what_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hpa_pages", "--toy", "--out", str(tmp_path)]) == 0
    assert pq.read_table(tmp_path / "benchmarks.parquet").num_rows == 1
    with pytest.raises(SystemExit):
        main(["nothing", "--out", str(tmp_path)])
    assert "there is no benchmark nothing: choose from" in capsys.readouterr().err
