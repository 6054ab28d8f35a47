"""What finds cells besides Cellpose's network: the same table from each, and no seams."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import dermatome
from dermatome.classes import TissueClass
from dermatome.cli.app import app
from dermatome.errors import BadSetting, BadWeights
from dermatome.geometry import Box
from dermatome.inference.compute import choose_compute
from dermatome.labels.npz import save_mask
from dermatome.metrics.instances import match_instances
from dermatome.registry.published import Taken, keep_program, published
from dermatome.settings import load_settings
from dermatome.skin.cells import segmenters
from dermatome.skin.cells.network import load_cell_network
from dermatome.skin.cells.networks import find_cell_weights, load_cells
from dermatome.skin.cells.segment import CELL_COLUMNS, segment_cells
from dermatome.storage.layout import DataRoot
from dermatome.synthetic.skin import toy_slide

CPU = choose_compute("cpu", "fp32", 1, backend="torch")


class ToyInstanSeg(torch.nn.Module):
    """A program of InstanSeg's form: RGB at its own scale in, instances out, here dark blobs numbered by pooling."""

    def __init__(self, pixel_size=0.5):
        super().__init__()
        self.pixel_size = pixel_size

    def forward(self, x):
        dark = (x[:, :1] < 0.27).float()
        height, width = x.shape[2], x.shape[3]
        labels = torch.arange(1, height * width + 1, dtype=torch.float32).view(1, 1, height, width) * dark
        for _ in range(60):
            labels = torch.nn.functional.max_pool2d(labels, 3, 1, 1) * dark
        return labels


def instanseg(folder, network=None):
    file = folder / "theirs.pt"
    torch.jit.save(torch.jit.script(network or ToyInstanSeg()), file)
    entry = published()[segmenters.INSTANSEG]
    return keep_program(entry, Taken(file.read_bytes(), "0" * 64, "made here", "x"), folder)


@pytest.fixture(scope="module")
def toy():
    return toy_slide(3, size_px=512)


def found_by(toy, segmenter, root, named=""):
    weights = find_cell_weights(root, named, segmenter)
    network = load_cells(weights, CPU, segmenter)
    assert network.sha256 == weights.sha256
    return segment_cells(toy.slide, toy.mask, network)


@pytest.mark.parametrize(("segmenter", "named", "least"), [("watershed", "cyto2", 0.8), ("nuclei", "toy", 0.8),
                                                           ("instanseg", "cyto2", 0.6)])  # fmt: skip
def test_every_segmenter_gives_the_same_table(tmp_path, toy, segmenter, named, least):
    root = DataRoot.at(str(tmp_path))
    root.models.mkdir(parents=True)
    instanseg(root.models)
    result = found_by(toy, segmenter, root, named)
    assert list(result.table.columns) == list(CELL_COLUMNS)
    assert {name: str(kind) for name, kind in result.table.dtypes.items()} == CELL_COLUMNS
    instances = result.instances.whole()
    assert np.array_equal(np.unique(instances), np.arange(len(result.table) + 1))
    inside = np.bincount(instances.ravel(), toy.mask.ravel() == TissueClass.EPIDERMIS)[1:]
    assert (2 * inside > result.table["area_px"]).all()
    expected = np.where(toy.mask == TissueClass.EPIDERMIS, toy.instances, 0)
    matched = match_instances(expected, instances)
    assert len(matched.ious[matched.ious >= 0.5]) >= least * len(np.unique(expected)[1:])


def test_a_window_s_edges_do_not_show(toy, monkeypatch, tmp_path):
    root = DataRoot.at(str(tmp_path))
    whole = found_by(toy, "watershed", root)
    monkeypatch.setattr(segmenters, "CORE_PX", 130)
    parts = found_by(toy, "watershed", root)
    assert parts.seam_density
    assert abs(len(parts.table) - len(whole.table)) <= 0.02 * len(whole.table)
    same = parts.instances.whole() > 0
    assert (same == (whole.instances.whole() > 0)).mean() > 0.999


def test_the_setting_chooses_it_and_a_missing_network_is_one_sentence(tmp_path):
    root = DataRoot.at(str(tmp_path))
    root.settings.write_text('[cells]\nsegmenter = "watershed"\n')
    settings = load_settings(root.settings)
    assert settings.cells.deciding()["segmenter"] == "watershed"
    assert find_cell_weights(root, settings.cell_weights, settings.cells.segmenter).name == "watershed"
    with pytest.raises(BadSetting, match="no.* is named: set cell_weights to a weights file|none is named"):
        find_cell_weights(root, "cyto2", "nuclei")
    with pytest.raises(BadWeights, match="no network for the segmenter instanseg at .*instanseg_brightfield_nuclei.pt"):
        find_cell_weights(root, "cyto2", "instanseg")
    root.settings.write_text('[cells]\nsegmenter = "stardist"\n')
    with pytest.raises(BadSetting, match="segmenter"):
        load_settings(root.settings)


class Flat(torch.nn.Module):
    def forward(self, x):
        return x.mean()


def test_programs_that_are_no_instanseg_are_refused(tmp_path):
    path = instanseg(tmp_path, Flat())
    with pytest.raises(BadWeights, match="not an InstanSeg network for RGB images"):
        segmenters.load_segmenter(path, CPU, "instanseg")
    path = instanseg(tmp_path, ToyInstanSeg(0.0))
    with pytest.raises(BadWeights, match="or states no scale"):
        segmenters.load_segmenter(path, CPU, "instanseg")
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | {"sha256": "0" * 64}))
    with pytest.raises(BadWeights, match="is not the file that was trusted"):
        segmenters.load_segmenter(path, CPU, "instanseg")


def test_far_too_coarse_slides_are_refused(tmp_path, toy):
    network = segmenters.load_segmenter(instanseg(tmp_path), CPU, "instanseg")
    with pytest.raises(BadSetting, match="more than 4 times finer"):
        segment_cells(replace(toy.slide, mpp=2.5), toy.mask, network)
    assert load_cell_network("toy", CPU).licence


def test_command_line_and_python_interface_take_it(tmp_path, toy):
    cv2.imwrite(str(tmp_path / "s1.png"), toy.slide.whole()[..., ::-1])
    save_mask(tmp_path / "masks" / "s1.npz", toy.mask, Box.whole(toy.slide.size))
    arguments = ["cells", "segment", tmp_path / "s1.png", "--tissue", tmp_path / "masks", "--weights", "none"]
    arguments += ["--segmenter", "watershed", "--out", tmp_path / "o", "--mpp", toy.slide.mpp, "--device", "cpu"]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "o" / "s1.json").read_text())
    assert record["settings"]["segmenter"] == record["values"]["weights"] == "watershed"
    _, cells = dermatome.segment_cells(
        toy.slide.whole(), toy.mask, "none", mpp=toy.slide.mpp, device="cpu", segmenter="watershed"
    )
    assert len(cells) == record["values"]["cells"]
