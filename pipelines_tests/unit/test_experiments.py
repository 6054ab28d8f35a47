"""Experiments come to their end at toy size, are not done twice, and their tables say what was scored."""

import json
from pathlib import Path

import pytest

from pipelines_tests.experiments.__main__ import experiments, main


def test_an_experiment_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["stain", "--toy", "--seeds", "1", "--threads", "1", "--out", str(tmp_path)]
    assert main(arguments) == 0
    text = (tmp_path / "stain" / "table.md").read_text()
    results = sorted(tmp_path.glob("stain/*/result.json"))
    scores = [json.loads(path.read_text())["tests"]["IHC slides"]["mean_iou"] for path in results]
    assert len(scores) == 2
    for name, score in zip(experiments(toy=True)["stain"].configurations, scores, strict=True):
        assert f"| IHC slides | {name} | 1 | 2 |" in text
        assert f"| {score:.3f} |" in text
    written = [path.stat().st_mtime_ns for path in results]
    assert main(arguments) == 0
    assert [path.stat().st_mtime_ns for path in results] == written
    assert "Wrote" in capsys.readouterr().out


def test_the_real_tiles_of_two_places_are_told_apart(realdata: Path, tmp_path: Path) -> None:
    tiles = experiments()["skin"].tiles(tmp_path, 1)
    assert tiles is not None
    (test,) = tiles.tests.values()
    assert (len(tiles.train), len(test)) == (8, 6)
    drawn = [experiments()["starter_3"].tiles(tmp_path, seed) for seed in (1, 2)]
    assert [len(each.train) for each in drawn if each] == [3, 3]
    assert len({tile.name for each in drawn if each for tile in each.train}) > 3
    assert all(tile.mask_path.is_file() for tile in [*tiles.train, *test])
