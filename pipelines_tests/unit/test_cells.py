"""Cells on toys whose nuclei are known; tiling, blocks, numbering and outcomes around the network."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dermatome.classes import StainingPattern, TissueClass
from dermatome.errors import BadAnnotation, BadSetting
from dermatome.geometry import Box, Size
from dermatome.inference.backends import TorchRunner
from dermatome.inference.compute import Compute
from dermatome.metrics.instances import match_instances
from dermatome.skin.cells import image as cell_image
from dermatome.skin.cells.blocks import cells_by_block
from dermatome.skin.cells.cyto2 import SizeModel
from dermatome.skin.cells.flows import CellFlows, Dynamics
from dermatome.skin.cells.image import CellImage, cell_image_of
from dermatome.skin.cells.network import CellNetwork, load_cell_network
from dermatome.skin.cells.segment import CELL_COLUMNS, CellsOutcome, _estimates_px, estimate_diameter, segment_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.synthetic.skin import toy_slide

CPU = Compute(device="cpu", precision="fp32", threads=1, device_name="cpu")


class PerPixel(torch.nn.Module):
    """A network without neighbourhood: what it says of a pixel must not depend on the tiles around it."""

    def __init__(self):
        super().__init__()
        self.tiles = 0

    def forward(self, data):
        self.tiles += len(data)
        first = data[:, :1]
        return torch.cat([first, 2 * first, 3 * first - 1], dim=1), torch.ones(len(data), 4) / 2


def stub(diameter_px=16.0, diameter_um=8.0):
    return CellNetwork("stub", "0", diameter_px, diameter_um, TorchRunner(PerPixel(), CPU), CPU)


def flows_of(network, image, diameter_px):
    """All flows of a slide, and what ran them."""
    whole = Box.whole(image.size)
    flows = CellFlows(network, image, whole, diameter_px)
    assert list(flows.run())[-1] == whole.bottom_px
    return *flows.read(whole), flows


class Plain(CellImage):
    """An image that is shown to the network as it is."""

    def __init__(self, values, near):
        super().__init__(
            Box.whole(Size(*values.shape)).size,
            lambda box: np.full((*near[box.slices].shape, 3), 255, np.uint8),
            lambda box: near[box.slices],
            0.5,
            0.0,
        )
        self.values = values

    def network_input(self, box):
        return self.values[box.slices]


@pytest.fixture(scope="module")
def network():
    return load_cell_network("toy", replace(CPU, backend="torch"))


@pytest.fixture(scope="module")
def toy():
    return toy_slide(81, StainingPattern.WHOLE, size_px=440, island=True)


@pytest.fixture(scope="module")
def found(toy, network):
    return segment_cells(toy.slide, toy.mask, network)


def test_most_nuclei_are_found(toy, found):
    score = match_instances(toy.instances, found.instances.whole()).f1
    assert found.outcome is CellsOutcome.CELLS
    assert score is not None
    assert score >= 0.85


def test_an_islands_cells_are_found_too(toy, found):
    import cv2

    _, pieces, stats, _ = cv2.connectedComponentsWithStats((toy.mask == TissueClass.EPIDERMIS).astype(np.uint8))
    large = [k for k in range(1, len(stats)) if stats[k, cv2.CC_STAT_AREA] > 1500]
    assert len(large) == 2
    island = pieces == min(large, key=lambda k: stats[k, cv2.CC_STAT_AREA])
    there = np.unique(found.instances.whole()[island])
    assert (there > 0).sum() >= 0.7 * (np.unique(toy.instances[island]) > 0).sum() > 3


def test_the_table_is_about_the_instances(toy, found):
    table, instances = found.table, found.instances.whole()
    assert {name: str(kind) for name, kind in table.dtypes.items()} == CELL_COLUMNS
    assert table["cell_id"].tolist() == list(range(1, instances.max() + 1))
    for row in table.sample(15, random_state=0).itertuples():
        rows, columns = np.nonzero(instances == row.cell_id)
        assert row.area_px == rows.size
        assert row.area_um2 == pytest.approx(rows.size * 0.25)
        assert row.centroid_y_px == pytest.approx(rows.mean())
        assert row.centroid_x_px == pytest.approx(columns.mean())
        assert row.equivalent_diameter_um == pytest.approx(np.sqrt(rows.size * 4 / np.pi) / 2)
        density = toy.densities[rows, columns].mean(axis=0)
        assert row.mean_h_od == pytest.approx(density[0], abs=0.1)
        assert row.mean_dab_od == pytest.approx(density[2], abs=0.1)
    assert table.notna().all().all()


def test_cells_lie_in_the_epidermis_and_are_one_piece_each(toy, found):
    import cv2

    instances = found.instances.whole()
    for cell in range(1, instances.max() + 1):
        where = instances == cell
        assert (toy.mask[where] == TissueClass.EPIDERMIS).mean() > 0.5
        pieces, _, stats, _ = cv2.connectedComponentsWithStats(where.astype(np.uint8))
        assert stats[1:, cv2.CC_STAT_AREA].max() >= 0.9 * where.sum(), pieces


def test_twice_gives_the_same_and_batches_do_not_matter(toy, network, found):
    same = segment_cells(toy.slide, toy.mask, network)
    np.testing.assert_array_equal(same.instances.whole(), found.instances.whole())
    one_by_one = segment_cells(toy.slide, toy.mask, network, CellSettings(batch=1))
    assert match_instances(found.instances.whole(), one_by_one.instances.whole(), 0.95).f1 == pytest.approx(1, abs=0.02)


def test_a_grey_image_has_cells_and_no_stains(toy, network, found):
    assert found.table[["mean_h_od", "mean_dab_od"]].notna().all(axis=None)
    grey = np.repeat(toy.slide.whole().mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    result = segment_cells(replace(toy.slide, pixels=grey), toy.mask, network)
    assert len(result.table) > 10
    assert result.table[["mean_h_od", "mean_dab_od"]].isna().all(axis=None)
    assert not result.background.stains_check().passed


def test_where_the_diameter_came_from_is_said(toy, found):
    assert found.diameter_source == "training diameter"
    assert found.diameter_px == pytest.approx(16.5)
    given = segment_cells(toy.slide, toy.mask, stub(), CellSettings(diameter_um=7))
    assert (given.diameter_px, given.diameter_source) == (14, "setting")
    finer = segment_cells(replace(toy.slide, mpp=0.4), toy.mask, stub())
    assert finer.diameter_px == pytest.approx(8 / 0.4)
    no_size = segment_cells(toy.slide, toy.mask, stub(diameter_px=21, diameter_um=None))
    assert no_size.diameter_px == 21


def test_a_size_model_is_asked_and_its_cells_measured(toy, network):
    styles = 128
    sized = replace(network, size_model=SizeModel(np.zeros(styles), np.zeros(styles), float(np.log(1.3)), 16.5))
    small = replace(toy.slide, pixels=toy.slide.pixels[:250])
    result = segment_cells(small, toy.mask[:250], sized)
    assert result.diameter_source == "size model"
    assert result.diameter_px == pytest.approx(toy.nucleus_diameter_px, rel=0.15)


def test_no_epidermis_and_no_cells_are_results(toy):
    nothing = segment_cells(toy.slide, np.full_like(toy.mask, TissueClass.DERMIS), stub())
    assert nothing.outcome is CellsOutcome.NO_EPIDERMIS
    assert nothing.instances.shape == toy.mask.shape
    assert {name: str(kind) for name, kind in nothing.table.dtypes.items()} == CELL_COLUMNS
    blank = replace(toy.slide, pixels=np.full_like(toy.slide.pixels, 240))
    bare = segment_cells(blank, toy.mask, stub())
    assert bare.outcome is CellsOutcome.NO_CELLS
    assert bare.instances.whole().max() == 0
    assert len(bare.table) == 0


def test_a_mask_of_another_size_and_a_senseless_diameter_are_refused(toy):
    with pytest.raises(BadAnnotation, match="compute the mask"):
        segment_cells(toy.slide, toy.mask[1:], stub())
    with pytest.raises(BadSetting, match="cannot be scaled"):
        segment_cells(toy.slide, toy.mask, stub(), CellSettings(diameter_um=150))


@pytest.mark.parametrize("shape", [(40, 30), (224, 224), (225, 500), (701, 333)])
def test_tiles_leave_no_trace(shape):
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    flow, logits, flows = flows_of(stub(), Plain(values, np.ones(shape, dtype=bool)), 16.0)
    np.testing.assert_allclose(flow[0], values, atol=1e-5)
    np.testing.assert_allclose(flow[1], 2 * values, atol=1e-5)
    np.testing.assert_allclose(logits, 3 * values - 1, atol=1e-5)
    assert flows.style_sum is not None
    assert bool(flows.seams_px[0]) == (shape[0] + 16 > 224)


def test_tiles_without_tissue_are_not_run_and_hold_no_cell():
    values = np.ones((900, 900), dtype=np.float32)
    near = np.zeros_like(values, dtype=bool)
    near[:100, :100] = True
    _, whole, everything = flows_of(stub(), Plain(values, np.ones_like(near)), 16.0)
    _, part, corner = flows_of(stub(), Plain(values, near), 16.0)
    assert corner.tiles == 1 < everything.tiles
    assert (whole > 0).all()
    assert (part[near] > 0).all()
    assert (part[400:] < -10).all()


def test_background_and_dermis_have_no_say_in_the_preparation(toy):
    epidermis = toy.mask == TissueClass.EPIDERMIS
    whole = Box.whole(toy.slide.size)
    image = cell_image_of(toy.slide.pixels, epidermis, 0.5, 12)
    near, shown = image.near(whole), image.network_input(whole)
    painted = toy.slide.pixels.copy()
    painted[~near] = 0
    other = cell_image_of(painted, epidermis, 0.5, 12)
    np.testing.assert_array_equal(shown, other.network_input(whole))
    assert (shown[~near] == 0).all()
    flat = cell_image_of(np.full_like(painted, 200), epidermis, 0.5, 12)
    assert np.isfinite(flat.network_input(whole)).all()


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


def test_a_slides_cells_do_not_depend_on_its_blocks(toy, network, found):
    whole, parts = found, segment_cells(toy.slide, toy.mask, network, block_px=170)
    np.testing.assert_array_equal(parts.instances.whole(), whole.instances.whole())
    assert parts.table.equals(whole.table)
    first = [np.flatnonzero(whole.instances.whole().ravel() == cell)[0] for cell in whole.table["cell_id"]]
    assert first == sorted(first), "numbers are not in reading order"


@pytest.mark.parametrize("mpp", [0.5, 0.43])
def test_a_prepared_part_is_that_of_the_whole(toy, mpp, monkeypatch):
    """Patches much smaller than the slide, requested in parts and in any order, forgotten in between."""
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


@pytest.mark.parametrize(("guess", "median", "believed"), [(500.0, None, 120.0), (500.0, 900, 120.0), (0.1, None, 4.0)])
def test_a_wild_estimate_is_not_believed(guess, median, believed):
    asked = []
    cells = [] if median is None else [(SimpleNamespace(count=1, owners=np.zeros(median**2, int)), 0)]

    def cells_in(box, diameter_px):
        asked.append(diameter_px)
        return SimpleNamespace(run=list, style_sum=np.ones(4)), cells

    image = SimpleNamespace(region=Box(0, 0, 9, 9))
    model = SimpleNamespace(diameter=lambda style: guess)
    found = estimate_diameter(image, model, 30.0, cells_in, _estimates_px(30.0, 0.5))  # type: ignore[arg-type]
    assert found == believed
    assert set(asked) <= {30.0, believed}
