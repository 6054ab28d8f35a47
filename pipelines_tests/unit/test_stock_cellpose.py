"""Our cells against those of Cellpose's own code: same weights, same prepared image, same settings."""

from dataclasses import replace

import numpy as np
import pytest

from dermatome.classes import TissueClass
from dermatome.inference.compute import Compute
from dermatome.metrics.instances import match_instances
from dermatome.skin.cells.cyto2 import SizeModel
from dermatome.skin.cells.image import CellImage, cell_image_of
from dermatome.skin.cells.network import load_cell_network
from dermatome.skin.cells.segment import estimate_diameter, segment_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.slides.slide import MppSource, Slide, read_slide
from dermatome.synthetic.skin import toy_slide
from pipelines_tests.reference.stock_cellpose import cyto2_sized_weights, stock_cells, stock_model

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return cyto2_sized_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def network(weights):
    return load_cell_network(weights[0], replace(CPU, backend="openvino"))


def agreement(slide, mask, network, state_dict, settings):
    found = segment_cells(slide, mask, network, settings)
    assert found.crop is not None
    assert found.diameter_px is not None
    image = cell_image_of(slide.pixels, mask == TissueClass.EPIDERMIS, slide.mpp, settings.margin_um)
    wanted = stock_cells(
        stock_model(state_dict), image, found.crop, found.diameter_px, settings, round(settings.min_area_um2 * 4)
    )
    assert wanted.max() > 15
    score = match_instances(wanted, found.instances[found.crop.slices], 0.7).f1
    assert score is not None
    return score


@pytest.mark.parametrize("diameter_um", [None, 6.5])
def test_cells_of_a_toy_are_those_of_stock_cellpose(network, weights, diameter_um):
    toy = toy_slide(5, size_px=400, island=False)
    rows, columns = np.nonzero(toy.mask == TissueClass.EPIDERMIS)
    top, left = (max(0, int(np.median(at)) - 110) for at in (rows, columns))
    part = (slice(top, top + 220), slice(left, left + 220))
    slide = Slide("toy", np.ascontiguousarray(toy.slide.pixels[part]), 0.5, MppSource.DECLARED, "0")
    settings = CellSettings(diameter_um=diameter_um)
    assert agreement(slide, toy.mask[part], network, weights[1], settings) >= 0.98


def test_cells_of_a_real_core_are_those_of_stock_cellpose(network, weights, realdata):
    core = read_slide(realdata / "hpa_ihc" / "7921_A_1_1.jpg")
    slide = Slide("core", np.ascontiguousarray(core.pixels[1300:1600, 1300:1600]), 0.5, MppSource.DECLARED, "0")
    mask = np.full((300, 300), TissueClass.EPIDERMIS, dtype=np.uint8)
    assert agreement(slide, mask, network, weights[1], CellSettings()) >= 0.98


def test_the_size_estimate_is_that_of_cellposes_size_model(network, weights, tmp_path):
    from cellpose.models import SizeModel as StockSizeModel

    toy = toy_slide(5, size_px=400, island=False)
    image: CellImage = cell_image_of(toy.slide.pixels, toy.mask == TissueClass.EPIDERMIS, 0.5, 12)
    region = image.region
    assert region is not None
    rng = np.random.default_rng(0)
    ours = SizeModel(rng.normal(0, 0.3, 256), np.zeros(256), float(np.log(1.1)), network.diameter_px)
    fields = {
        "A": ours.weights, "smean": ours.mean_style, "ymean": ours.mean_size, "diam_mean": ours.diameter_px,
    }  # fmt: skip
    np.save(tmp_path / "size.npy", np.array(fields, dtype=object), allow_pickle=True)
    stock = StockSizeModel(stock_model(weights[1]), pretrained_size=str(tmp_path / "size.npy"))
    wanted, _ = stock.eval(image.network_input(region), channels=[0, 0], normalize=False)

    from dermatome.skin.cells.blocks import cells_by_block
    from dermatome.skin.cells.flows import CellFlows, Dynamics

    def cells_in(box, diameter_px):
        flows = CellFlows(network, image, box, diameter_px)
        how = Dynamics(diameter_px, round(200 * diameter_px / network.diameter_px), 0.4, 0.0, 15)
        return flows, cells_by_block(flows, box, image.may_be_near, how)

    found = estimate_diameter(image, ours, network.diameter_px, cells_in, (3.0, 300.0))
    assert found == pytest.approx(wanted, rel=0.05)
