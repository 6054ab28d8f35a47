"""Blocks, patches and tiles have no say in the cells: none is cut, none is found twice, whatever the parts are."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dermatome.classes import StainingPattern, TissueClass
from dermatome.geometry import Box
from dermatome.inference.compute import Compute
from dermatome.skin.cells import image as cell_image
from dermatome.skin.cells.blocks import cells_by_block
from dermatome.skin.cells.flows import CellFlows, Dynamics
from dermatome.skin.cells.image import cell_image_of
from dermatome.skin.cells.network import load_cell_network
from dermatome.skin.cells.segment import segment_cells
from dermatome.synthetic.skin import toy_slide

CPU = Compute(device="cpu", precision="fp32", threads=2, device_name="cpu")


@pytest.fixture(scope="module")
def network():
    return load_cell_network("toy", replace(CPU, backend="torch"))


@pytest.fixture(scope="module")
def toy():
    return toy_slide(81, StainingPattern.WHOLE, size_px=440, island=True)


class Known(CellFlows):
    """Flows of a region that were made before."""

    def __init__(self, flow, logits, region, ready):
        self.flow, self.logits, self.region, self.ready = flow, logits, region, ready

    def run(self):
        yield from self.ready
        yield self.region.bottom_px

    def read(self, box):
        here = (
            slice(box.top_px - self.region.top_px, box.bottom_px - self.region.top_px),
            slice(box.left_px - self.region.left_px, box.right_px - self.region.left_px),
        )
        return self.flow[(slice(None), *here)], self.logits[here]

    def forget_above(self, row_px):
        pass


def converging(seed, side_px):
    """Flows to the middles of crowded, partly merged cells of all sizes: (2, H, W) and logits (H, W)."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side_px, :side_px].astype(np.float32)
    flow, logits = np.zeros((2, side_px, side_px), np.float32), np.full((side_px, side_px), -5, np.float32)
    for y, x, radius in zip(*rng.uniform(0, side_px, (2, 60)), rng.uniform(4, 16, 60), strict=True):
        distance = np.hypot(rows - y, columns - x)
        inside = distance < radius
        pull = 5 * np.minimum(1, distance / 2) / np.maximum(distance, 1e-3)
        flow[0][inside], flow[1][inside] = ((y - rows) * pull)[inside], ((x - columns) * pull)[inside]
        logits[inside] = 3
    flow += rng.normal(0, 0.4, flow.shape).astype(np.float32)
    return flow, logits


def labels_of(flows, how):
    """The cells of all blocks in one map, and how many there are; fails where two share a pixel."""
    region = flows.region
    labels = np.zeros((region.bottom_px, region.right_px), np.int64)
    count, final = 0, region.top_px
    for cells, final_above in cells_by_block(flows, region, lambda box: True, how):
        assert (labels[cells.rows, cells.columns] == 0).all(), "a cell was found twice"
        assert not cells.count or cells.rows.min() >= final
        labels[cells.rows, cells.columns] = cells.owners + count + 1
        count, final = count + cells.count, max(final, final_above)
    return labels, count


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    block_px=st.integers(45, 190),
    offset=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    ready=st.lists(st.integers(0, 500), max_size=5),
    threads=st.integers(1, 3),
)
def test_no_block_cuts_or_doubles_a_cell(seed, block_px, offset, ready, threads):
    flow, logits = converging(seed, 190)
    whole = Box(0, 0, 190, 190)
    one_piece, count = labels_of(Known(flow, logits, whole, []), Dynamics(16, 200, 0.4, 0.0, 20, 1, 1000))
    moved = Box(offset[0], offset[1], offset[0] + 190, offset[1] + 190)
    known = Known(flow, logits, moved, sorted(row for row in ready if row > offset[0]))
    in_blocks, same = labels_of(known, Dynamics(16, 200, 0.4, 0.0, 20, threads, block_px))
    in_blocks = in_blocks[moved.slices]
    assert same == count > 10
    # The same cells, numbered otherwise.
    pairs = np.unique(np.stack([one_piece.ravel(), in_blocks.ravel()]), axis=1)
    assert pairs.shape[1] == count + 1
    assert (np.diff(np.sort(pairs, axis=1)) == 1).all()


def test_a_slides_cells_do_not_depend_on_its_blocks(toy, network):
    whole = segment_cells(toy.slide, toy.mask, network, block_px=1000)
    parts = segment_cells(toy.slide, toy.mask, network, block_px=170)
    np.testing.assert_array_equal(parts.instances.whole(), whole.instances.whole())
    assert parts.table.equals(whole.table)
    first = [np.flatnonzero(whole.instances.whole().ravel() == cell)[0] for cell in whole.table["cell_id"]]
    assert first == sorted(first), "numbers are not in reading order"


@pytest.mark.parametrize("mpp", [0.5, 0.43])
def test_a_prepared_part_is_that_of_the_whole(toy, mpp, monkeypatch):
    """Patches much smaller than the slide, asked for in parts and in any order, forgotten in between."""
    monkeypatch.setattr(cell_image, "_PATCH_PX", 128)
    epidermis = toy.mask == TissueClass.EPIDERMIS
    wanted = cell_image_of(toy.slide.pixels, epidermis, mpp, 12).network_input(Box.whole(toy.slide.size))
    parts = cell_image_of(toy.slide.pixels, epidermis, mpp, 12)
    rng = np.random.default_rng(0)
    for _ in range(25):
        top, left = rng.integers(-20, 420, 2).tolist()
        box = Box(top, left, top + int(rng.integers(1, 200)), left + int(rng.integers(1, 200)))
        found = parts.network_input(box)
        inner = Box(max(0, top), max(0, left), min(440, box.bottom_px), min(440, box.right_px))
        part = found[inner.top_px - top : inner.bottom_px - top, inner.left_px - left : inner.right_px - left]
        np.testing.assert_array_equal(part, wanted[inner.slices])
        assert np.count_nonzero(found) == np.count_nonzero(part)
        parts.forget_above(int(rng.integers(0, 300)))


def test_patches_are_equalised_as_opencv_does_the_whole(toy, monkeypatch):
    import cv2

    epidermis = toy.mask == TissueClass.EPIDERMIS
    whole = Box.whole(toy.slide.size)
    monkeypatch.setattr(cell_image, "_PATCH_PX", 128)
    patches = cell_image_of(toy.slide.pixels, epidermis, 0.5, 12)
    found, near = patches.equalised(whole), patches.near(whole)
    grey = np.zeros((6 * 128, 6 * 128), np.uint8)  # whole tiles, one more on each side
    grey[128 : 128 + 440, 128 : 128 + 440] = patches._grey.read(whole)
    wanted = cv2.createCLAHE(2.0, (6, 6)).apply(grey)[128 : 128 + 440, 128 : 128 + 440]
    np.testing.assert_array_equal(found, np.where(near, wanted, 0))
