"""Training of the shipped cell network learns, and writes weights that load."""

import pytest

from dermatome.inference.compute import Compute
from dermatome.skin.cells.network import load_cell_network
from dermatome.synthetic.train_networks import CELLS, cells_task
from dermatome.training.trainer import train
from dermatome.training.weights import save_weights

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")
TINY = cells_task(CELLS.changed(epochs=2, batch=2, crop_px=64, nbase=(2, 4, 4, 4, 8)), slides=1, tested=1)


def test_it_learns_and_writes_what_can_be_loaded(tmp_path):
    trained = train(TINY, CPU)
    losses = trained.history["train_loss"].tolist()
    assert losses[-1] < 0.9 * losses[0]
    assert "f1_at_iou_0.5" in trained.card.scores
    save_weights(tmp_path / "w.safetensors", trained.state, trained.card, half=True)
    network = load_cell_network(tmp_path / "w.safetensors", CPU)
    assert network.diameter_um == pytest.approx(8.25)
