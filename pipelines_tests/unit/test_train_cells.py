"""The demo network's training script learns, repeats itself, and writes what can be loaded."""

from pathlib import Path

import numpy as np
import pytest

from dermatome.classes import StainingPattern
from dermatome.compute import Compute
from dermatome.demo.train_cells import CellTraining, train, training_pair, write
from dermatome.skin.cell_network import load_cell_network
from dermatome.toy import toy_slide

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")
TINY = CellTraining(minutes=10, steps=40, slides=1, batch=2, crop_px=64, nbase=(2, 4, 4, 4, 8))


def test_the_targets_are_the_toys_nuclei() -> None:
    toy = toy_slide(4, StainingPattern.BASAL, size_px=400)
    image, labels = training_pair(toy, 90)
    assert image.shape[0] == 2
    assert image.shape[1:] == labels.shape[1:]
    assert (image[1] == 0).all()
    cells = labels[1] > 0.5
    assert cells.sum() >= (toy.instances > 0).sum()
    assert image[0][cells].mean() > image[0][~cells].mean() + 0.2
    lengths = np.hypot(labels[2], labels[3])
    assert np.median(lengths[cells]) == pytest.approx(1, abs=1e-3)
    assert (lengths[~cells] == 0).all()


def test_it_learns_and_writes_what_can_be_loaded(tmp_path: Path) -> None:
    said: list[str] = []
    model, figures = train(TINY, CPU, say=said.append)
    _, longer = train(CellTraining(**{**vars(TINY), "steps": 5}), CPU, say=said.append)
    assert figures["steps"] == 40
    assert figures["loss"] < 0.9 * longer["loss"]
    write(tmp_path / "w.safetensors", model, TINY, {**figures, "f1_at_iou_0.5": 0.5})
    network = load_cell_network(tmp_path / "w.safetensors", CPU)
    assert network.diameter_um == pytest.approx(8.25)
