"""The demo network's training script learns, and writes what can be loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from dermatome.classes import StainingPattern
from dermatome.inference.compute import Compute
from dermatome.skin.cells.network import load_cell_network
from dermatome.synthetic.skin import toy_slide
from dermatome.synthetic.train_cells import SETTINGS, ToyCells, toy_picture, train, write

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")
TINY = ToyCells(replace(SETTINGS, epochs=2, batch=2, crop_px=64, nbase=(2, 4, 4, 4, 8)), slides=1)


def test_the_targets_are_the_toys_nuclei() -> None:
    toy = toy_slide(4, StainingPattern.BASAL, size_px=400)
    picture = toy_picture(toy, 90)
    assert picture.shown.shape == picture.truth.shape[1:]
    cells = picture.truth[0] > 0
    assert cells.sum() >= (toy.instances > 0).sum()
    assert picture.shown[cells].mean() > picture.shown[~cells].mean() + 0.2


def test_it_learns_and_writes_what_can_be_loaded(tmp_path: Path) -> None:
    said: list[str] = []
    learnt = train(TINY, CPU, say=said.append)
    losses = [row["train_loss"] for row in learnt.run.history]
    assert losses[-1] < 0.9 * losses[0]
    assert len(said) == 2
    write(tmp_path / "w.safetensors", TINY, learnt, {"f1_at_iou_0.5": 0.5})
    network = load_cell_network(tmp_path / "w.safetensors", CPU)
    assert network.diameter_um == pytest.approx(8.25)
