"""Layers of epidermis on drawn geometry whose answer is known."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import distance_transform_edt

from dermatome.classes import StainingPattern, TissueClass
from dermatome.errors import BadAnnotation
from dermatome.geometry import Box
from dermatome.imaging.background import Background, I0Source, slide_background
from dermatome.imaging.stains import DECADIC_OD_PER_UNIT, STAIN_VECTORS, Stain, separate_stains
from dermatome.labels.npz import save_instances, save_mask
from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.labels.tiled import TiledArray
from dermatome.pipeline.batch import run_batch
from dermatome.pipeline.cached_stage import WaitingStage, cached_stage
from dermatome.pipeline.stage_files import write_rows
from dermatome.skin import stage_files as stage_parts
from dermatome.skin.layers import depth
from dermatome.skin.layers.depth import Survey, distance_from_dermis, number_layers
from dermatome.skin.layers.figures import layers_figure
from dermatome.skin.layers.measure import LayerOutcome, measure_layers, staining_pattern
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.layers.stage import LayersStage
from dermatome.skin.stage_files import CELLS_FILE, CELLS_TABLE, CELLS_TIFF, MASK_FILE, MASK_TIFF
from dermatome.slides import slide as slides
from dermatome.slides.slide import MppSource, Slide, read_slide
from dermatome.slides.source import SlideSource, acquire_slide
from dermatome.slides.tiled_tiff import TiledLabels, TiledPixels
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult
from dermatome.synthetic.skin import toy_slide

D, E, K = TissueClass.DERMIS, TissueClass.EPIDERMIS, TissueClass.KERATIN
BROWN, BLUE, WHITE = (140, 90, 50), (110, 100, 160), (255, 255, 255)


def slide_of(pixels, mpp=0.5):
    return Slide("drawn", pixels.astype(np.uint8), mpp, MppSource.DECLARED, "0" * 64)


def flat_skin(height_px=40, width_px=60, dermis_px=20):
    """Dermis below row 100, epidermis of `height_px` rows above it, white background above that; white pixels."""
    mask = np.zeros((100 + dermis_px, width_px), np.uint8)
    mask[100:] = D
    mask[100 - height_px : 100] = E
    return mask, np.full((*mask.shape, 3), 255, np.uint8)


def one_cell(mask, row=95, side_px=6):
    instances = np.zeros(mask.shape, np.int32)
    instances[row - side_px // 2 : row + side_px // 2, 10 : 10 + side_px] = 1
    return instances, pd.DataFrame({"cell_id": [1], "equivalent_diameter_um": [5.0]})


def measure(mask, pixels, **options):
    instances, cells = one_cell(mask)
    return measure_layers(slide_of(pixels), mask, instances, cells, LayerSettings(**options))  # type: ignore[arg-type]


def test_a_flat_epidermis_is_cut_into_equal_layers_of_one_cell_diameter():
    mask, pixels = flat_skin()
    result = measure(mask, pixels)
    assert result.outcome is LayerOutcome.MEASURED
    assert result.layer_px == 10
    assert result.layer_map.dtype == np.uint16
    expected = np.zeros(mask.shape, np.uint16)
    for layer in (1, 2, 3, 4):
        expected[100 - 10 * layer : 110 - 10 * layer] = layer
    np.testing.assert_array_equal(result.layer_map.whole(), expected)
    assert result.layers["layer"].tolist() == [1, 2, 3, 4]
    assert result.layers["distance_to_um"].tolist() == [5, 10, 15, 20]
    assert result.layers["area_px"].tolist() == [600] * 4
    assert result.layers["area_um2"].tolist() == [150.0] * 4
    assert result.layers["cells"].tolist() == [1, 0, 0, 0]
    assert result.cell_layers["layer"].tolist() == [1]
    assert result.cell_layers["distance_um"].tolist() == [pytest.approx(2.75)]  # rows 92..97 are 3..8 px away


@given(layers=st.integers(1, 400), thickness=st.floats(0.5, 60))
def test_exact_multiples_never_open_a_layer_of_their_own(layers, thickness):
    distance = (np.arange(1, layers + 1) * thickness).astype(np.float32)
    np.testing.assert_array_equal(number_layers(distance, thickness), np.arange(1, layers + 1))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), thickness=st.floats(0.7, 9))
def test_every_pixel_of_epidermis_is_in_the_layer_its_distance_says(seed, thickness):
    rng = np.random.default_rng(seed)
    mask = rng.choice(4, size=(rng.integers(2, 50), rng.integers(2, 50)), p=(0.3, 0.05, 0.5, 0.15)).astype(np.uint8)
    instances = np.zeros(mask.shape, np.int32)
    cells = pd.DataFrame({"cell_id": [], "equivalent_diameter_um": []})
    pixels = rng.integers(0, 256, (*mask.shape, 3), np.uint8)
    result = measure_layers(slide_of(pixels, 1.0), mask, instances, cells, LayerSettings(layer_um=thickness))
    if result.outcome is not LayerOutcome.MEASURED:
        assert not (mask == D).any() or not (mask == E).any()
        return
    distance = distance_transform_edt(mask != D)
    inside = mask == E
    layer_map = result.layer_map.whole()
    assert ((layer_map > 0) == inside).all()
    upper, lower = layer_map * thickness, (layer_map - 1.0) * thickness
    assert (distance[inside] <= upper[inside] + 1e-4).all()
    assert (distance[inside] > lower[inside] - 1e-4).all()
    assert layer_map[inside][np.argmax(distance[inside])] == layer_map.max() == len(result.layers)
    assert result.layers["area_px"].sum() == inside.sum()


@pytest.mark.parametrize("height_px", [40, 80])
def test_the_relative_profile_does_not_depend_on_thickness(height_px):
    mask, pixels = flat_skin(height_px)
    pixels[100 - height_px // 2 : 100] = BROWN
    result = measure(mask, pixels)
    relative, zones = result.relative, result.zones
    assert relative["relative_to"].tolist() == pytest.approx(np.arange(1, 21) / 20)
    assert relative["area_px"].tolist() == [height_px * 60 / 20] * 20
    assert (relative["mean_dab_od"] > 0.2).tolist() == [True] * 10 + [False] * 10
    assert zones["zone"].tolist() == ["basal", "lower_suprabasal", "upper_suprabasal"]
    assert zones["area_px"].tolist() == [600, 60 * (height_px // 2 - 10), 60 * (height_px // 2)]
    assert zones["positive_share"].tolist() == [1, 1, 0]


def test_without_an_upper_edge_only_the_basal_zone_is_known():
    mask = np.full((80, 60), E, np.uint8)
    mask[60:] = D
    result = measure(mask, np.full((80, 60, 3), 255, np.uint8))
    assert result.relative["area_px"].tolist() == [0] * 20
    assert result.zones["area_px"].tolist() == [600, 0, 0]


def test_an_island_in_the_dermis_is_measured_from_all_sides():
    mask = np.full((60, 60), D, np.uint8)
    mask[20:41, 20:41] = E
    pixels = np.full((60, 60, 3), 255, np.uint8)
    layer_map = measure(mask, pixels, layer_um=1.0).layer_map.whole()  # layers of 2 px
    assert layer_map[30, 30] == layer_map.max() == 6
    assert (layer_map[20, 20:41] == 1).all()
    assert (layer_map[20:41, 40] == 1).all()


def test_a_detached_piece_is_in_no_layer_and_reported():
    mask, pixels = flat_skin()
    mask = np.pad(mask, ((300, 0), (0, 0)))
    mask[:10] = E
    pixels = np.pad(pixels, ((300, 0), (0, 0), (0, 0)), constant_values=255)
    result = measure(mask, pixels)
    assert not result.layer_map[:10, :].any()
    assert result.detached_um2 == 10 * 60 * 0.25
    assert len(result.layers) == 4
    assert "no layer" in result.message
    near = measure(mask, pixels, max_gap_um=500)
    assert (near.layer_map[:10, :] > 0).all()
    assert len(near.layers) == near.layer_map.whole().max()
    middle = near.layers[near.layers["area_px"] == 0]
    assert len(middle)
    assert middle["mean_dab_od"].isna().all()
    assert near.pattern is StainingPattern.NEGATIVE


@pytest.mark.parametrize(
    ("mask", "outcome"),
    [
        (np.full((30, 30), D, np.uint8), LayerOutcome.NO_EPIDERMIS),
        (np.zeros((30, 30), np.uint8), LayerOutcome.NO_EPIDERMIS),
        (np.full((30, 30), E, np.uint8), LayerOutcome.NO_DERMIS),
    ],
)
def test_missing_tissue_is_a_named_outcome(mask, outcome):
    instances = np.ones(mask.shape, np.int32)
    cells = pd.DataFrame({"cell_id": [1], "equivalent_diameter_um": [5.0]})
    result = measure_layers(slide_of(np.zeros((*mask.shape, 3))), mask, instances, cells)
    assert result.outcome is outcome
    assert result.layers.empty
    assert result.pattern is None
    assert result.h_score is None
    assert not result.layer_map.whole().any()
    assert result.cell_layers["layer"].tolist() == [0]
    assert result.cell_layers["distance_um"].isna().all()


def test_no_cells_is_a_named_outcome_and_a_set_thickness_needs_none():
    mask, pixels = flat_skin()
    none = pd.DataFrame({"cell_id": [], "equivalent_diameter_um": []})
    instances = np.zeros(mask.shape, np.int32)
    assert measure_layers(slide_of(pixels), mask, instances, none).outcome is LayerOutcome.NO_CELLS
    result = measure_layers(slide_of(pixels), mask, instances, none, LayerSettings(layer_um=5))
    assert result.layers["cells"].tolist() == [0, 0, 0, 0]


def test_tables_of_every_outcome_have_the_same_columns():
    mask, pixels = flat_skin()
    full, empty = measure(mask, pixels), measure(np.zeros_like(mask), pixels)
    for name in ("layers", "cell_layers", "profile", "relative", "zones"):
        assert getattr(full, name).dtypes.to_dict() == getattr(empty, name).dtypes.to_dict()


def test_stains_are_optical_densities_of_their_layer():
    """A pixel whose DAB is 0.5 in log10 units is exp10(-0.5 × DAB vector) of white."""
    mask, pixels = flat_skin()
    dab, h = np.array([0.27, 0.57, 0.78]), np.array([0.65, 0.70, 0.29])
    pixels[90:100] = np.round(255 * 10 ** -(0.5 * dab + 0.25 * h))
    pixels[60:90] = np.round(255 * 10 ** -(0.3 * h))
    layers = measure(mask, pixels).layers
    assert layers["mean_dab_od"].tolist() == pytest.approx([0.5, 0, 0, 0], abs=0.01)
    assert layers["mean_h_od"].tolist() == pytest.approx([0.25, 0.3, 0.3, 0.3], abs=0.01)
    assert layers["dab_h_ratio"].tolist() == pytest.approx([2, 0, 0, 0], abs=0.1)
    assert layers["positive_share"].tolist() == [1, 0, 0, 0]
    assert layers["h_score"].tolist() == [200, 0, 0, 0]


LIGHTS = [(255, 255, 255), (240, 240, 240), (223, 215, 213), (225, 175, 148), (180, 140, 118)]


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("dab", [0.15, 0.0, 0.5])
def test_optical_density_does_not_depend_on_the_light(light, dab):
    mask = np.zeros((300, 300), np.uint8)
    mask[80:180], mask[180:] = E, D
    density = np.array([np.zeros(3), 0.05 * STAIN_VECTORS[0], 0.2 * STAIN_VECTORS[0] + dab * STAIN_VECTORS[2]])[mask]
    result = measure(mask, np.rint(light * 10**-density), layer_um=10.0)
    assert result.background.i0 == pytest.approx(light, abs=0.5)
    assert result.layers["mean_dab_od"].to_numpy(float) == pytest.approx(dab, abs=0.005)
    assert result.h_score == (200 if dab == 0.5 else 0)
    assert result.pattern is (StainingPattern.WHOLE if dab else StainingPattern.NEGATIVE)


@pytest.mark.parametrize("pattern", [StainingPattern.BASAL, StainingPattern.WHOLE])
def test_exposure_light_and_compression_hardly_move_the_h_score(pattern):
    toy = toy_slide(21, pattern, size_px=600, strength=0.4)
    cells = pd.DataFrame({"cell_id": [1], "equivalent_diameter_um": [7.0]})

    def score(pixels):
        found = measure_layers(slide_of(pixels), toy.mask, toy.instances, cells)
        return found.h_score, found.pattern

    def compressed(quality):
        with Image.open(io.BytesIO(toy.jpeg(quality))) as image:
            return np.array(image)

    # Dimmed first, so that a fifth more light still lies below white, where it would be clipped.
    middle = 0.8 * toy.slide.whole()
    expected, _ = score(middle)
    assert (expected or 0) > 10
    for exposure in (0.8, 1.2, np.array([1.2, 0.95, 0.8])):
        assert score(np.rint(exposure * middle)) == (pytest.approx(expected, abs=2), pattern)
    expected, _ = score(compressed(95))
    for quality in (75, 85):
        assert score(compressed(quality)) == (pytest.approx(expected, abs=2), pattern)


def test_real_cores_keep_their_h_score_whatever_exposure_and_compression_until_white_is_clipped(realdata):
    for path in sorted((realdata / "hpa_ihc").glob("*.jpg")):
        core = read_slide(path).whole()[600:1800, 600:1800].copy()
        core[:300] = read_slide(path).whole()[:300, :1200]  # background of a corner

        def score(pixels, tissue):
            background = slide_background(slide_of(pixels))
            dab = separate_stains(pixels, (Stain.DAB,), background.i0)[..., 0][tissue] * DECADIC_OD_PER_UNIT
            return 100 * sum(
                float((dab >= limit).mean()) for limit in (0.2, 0.4, 0.6)
            ), background.clipped_check().passed

        tissue = (core < 0.85 * np.array(slide_background(slide_of(core)).i0)).any(axis=2)
        expected, unclipped = score(core, tissue)
        assert expected > 20
        assert unclipped
        for exposure in (0.8, 0.9):
            assert score(np.rint(exposure * core).astype(np.uint8), tissue) == (pytest.approx(expected, abs=2), True)
        brighter, unclipped = score(np.rint(np.minimum(1.2 * core, 255)).astype(np.uint8), tissue)
        assert brighter < expected - 5
        assert not unclipped
        for quality in (75, 95):
            buffer = io.BytesIO()
            Image.fromarray(core).save(buffer, "JPEG", quality=quality)
            with Image.open(buffer) as image:
                assert score(np.array(image), tissue)[0] == pytest.approx(expected, abs=2)


def test_without_background_white_is_assumed_and_named():
    mask, pixels = flat_skin()
    pixels[:] = np.random.default_rng(0).integers(60, 250, pixels.shape)
    result = measure(mask, pixels)
    assert replace(result.background, no_stains="") == Background((255.0, 255.0, 255.0), I0Source.FALLBACK, 0.0)
    check = result.background.check()
    assert (check.name, check.passed) == ("background_found", False)
    assert "white (255) is assumed" in check.description


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rgb: np.repeat(rgb.mean(axis=2, keepdims=True), 3, axis=2), "the image is grey"),
        (lambda rgb: 255 - rgb, "the image is inverted"),
        (lambda rgb: rgb[..., ::-1], "red and blue are swapped"),
        (lambda rgb: rgb[..., [1, 0, 2]], "two colour channels are swapped"),
        (lambda rgb: rgb * (1, 0, 0), "a colour channel is empty"),
        (lambda rgb: rgb, ""),
        (lambda rgb: rgb * (0.88, 0.69, 0.58), ""),
    ],
)
def test_stains_are_null_where_colours_cannot_be_stains(change, reason):
    toy = toy_slide(5, StainingPattern.BASAL, size_px=600)
    cells = pd.DataFrame({"cell_id": [1], "equivalent_diameter_um": [7.0]})
    result = measure_layers(slide_of(change(toy.slide.whole())), toy.mask, toy.instances, cells)
    check = result.background.stains_check()
    assert (check.name, check.passed) == ("stains_present", not reason)
    assert reason in check.description
    assert reason in result.message
    assert len(result.layers) > 3
    stains = [result.h_score, result.positive_share, result.pattern]
    assert [value is None for value in stains] == [bool(reason)] * 3
    for name in ("mean_dab_od", "mean_h_od", "h_score"):
        assert pa.Table.from_pandas(result.layers)[name].null_count == (len(result.layers) if reason else 0)
    assert layers_figure(slide_of(toy.slide.whole()), result)


def test_the_ratio_is_null_where_there_is_no_hematoxylin():
    mask, pixels = flat_skin()
    result = measure(mask, pixels)
    column = pa.Table.from_pandas(result.layers)["dab_h_ratio"]
    assert column.null_count == 4, "null on disk, not NaN"
    assert result.pattern is StainingPattern.NEGATIVE
    assert result.h_score == 0


@pytest.mark.parametrize(
    ("stained", "pattern"),
    [
        (slice(90, 100), StainingPattern.BASAL),
        (slice(60, 85), StainingPattern.SUPRABASAL),
        (slice(60, 100), StainingPattern.WHOLE),
        (slice(0, 0), StainingPattern.NEGATIVE),
    ],
)
def test_patterns(stained, pattern):
    mask, pixels = flat_skin()
    pixels[60:100] = BLUE
    pixels[stained] = BROWN
    assert measure(mask, pixels).pattern is pattern


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_nothing_depends_on_which_way_is_up(turn):
    mask, pixels = flat_skin()
    pixels[90:100] = BROWN
    instances, cells = one_cell(mask)
    upright = measure_layers(slide_of(pixels), mask, instances, cells)
    turned = measure_layers(slide_of(np.rot90(pixels, turn)), np.rot90(mask, turn), np.rot90(instances, turn), cells)
    np.testing.assert_array_equal(np.rot90(upright.layer_map.whole(), turn), turned.layer_map.whole())
    pd.testing.assert_frame_equal(upright.layers, turned.layers)


def test_a_single_layer_cannot_tell_basal_from_suprabasal():
    table = pd.DataFrame({"layer": [1], "mean_dab_od": [0.5], "area_px": [10]})
    assert staining_pattern(table) is StainingPattern.WHOLE
    assert staining_pattern(table.iloc[:0]) is None


def test_a_map_of_another_size_is_refused():
    mask, pixels = flat_skin()
    instances, cells = one_cell(mask)
    with pytest.raises(BadAnnotation, match="tissue mask"):
        measure_layers(slide_of(pixels), mask[1:], instances, cells)
    with pytest.raises(BadAnnotation, match="instance map"):
        measure_layers(slide_of(pixels), mask, instances[:, 1:], cells)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), gap_um=st.sampled_from([3.0, 8.0, 500.0]))
def test_blocks_have_no_say_in_the_result(seed, gap_um):
    """Pieces that go on over the borders of blocks, in a large slide read from its files, are still one piece."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(60, 200, 2))
    mask = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(1, 9))):  # lines, which are pieces of more than one block
        top, left = rng.integers(0, height), rng.integers(0, width)
        long, thick = int(rng.integers(1, 150)), int(rng.integers(1, 4))
        down, along = (long, thick) if rng.random() < 0.5 else (thick, long)
        mask[top : top + down, left : left + along] = E
    mask[rng.integers(0, height, 3), rng.integers(0, width, 3)] = D
    instances = rng.integers(0, 9, mask.shape).astype(np.int32)
    cells = pd.DataFrame({"cell_id": range(1, 9), "equivalent_diameter_um": 3.0})
    slide = slide_of(rng.integers(0, 256, (*mask.shape, 3), np.uint8), 1.0)
    rules = LayerSettings(max_gap_um=gap_um)
    whole = measure_layers(slide, mask, instances, cells, rules)
    expected = whole.layer_map.whole()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth, "BLOCK_PX", 64)
        patch.setattr(depth, "TILE_PX", 32)
        parts = measure_layers(slide, mask, instances, cells, rules)
        assert parts.outcome is whole.outcome
        assert parts.detached_um2 == whole.detached_um2
        np.testing.assert_array_equal(parts.layer_map.whole(), expected)
    for name in ("layers", "cell_layers", "profile", "relative", "zones"):
        pd.testing.assert_frame_equal(getattr(parts, name), getattr(whole, name))


def test_far_from_dermis_the_distance_comes_from_a_coarse_map(monkeypatch):
    monkeypatch.setattr(depth, "FAR_PX", 100)
    monkeypatch.setattr(depth, "COARSE_SIDE_PX", 300)
    mask = np.zeros((1200, 500), np.uint8)
    mask[:700, 100:140] = E
    mask[750:, 90:400] = D
    survey = Survey(mask)
    assert survey.step_px == 4
    box = survey.cells_box(survey.epidermis, Box.whole(survey.size))
    assert box is not None
    exact = distance_transform_edt(mask != D)[box.slices]
    found = distance_from_dermis(mask, box, survey)
    near = (exact <= 100) & (mask[box.slices] == E)
    np.testing.assert_allclose(found[near], exact[near], rtol=1e-6)
    assert np.abs(found - exact)[mask[box.slices] == E].max() <= 4 * 2**0.5


def make(stage):
    (one,) = run_batch(cached_stage(stage, {}, "1", "run"), ["s1"])
    assert one.error is None, one.error
    return one.result.record


@pytest.fixture
def root(tmp_path):
    found, toy = DataRoot(tmp_path / "data"), toy_slide(3, size_px=700)
    tifffile.imwrite(tmp_path / "s1.tif", toy.slide.pixels, tile=(128, 128), photometric="rgb")
    source = SlideSource("s1", "folder", str(tmp_path / "s1.tif"))
    numbers = np.unique(toy.instances)[1:]

    def mask(key, folder):
        save_mask(folder / MASK_FILE, toy.mask, Box(0, 0, 700, 700))
        write_ome_tiff(folder / MASK_TIFF, TiledArray.of(toy.mask), 0.5)
        return StageResult("tissue", "mask-1", {"weights_sha256": "0"})

    def cells(key, folder):
        save_instances(folder / CELLS_FILE, toy.instances)
        write_ome_tiff(folder / CELLS_TIFF, TiledArray.of(toy.instances.astype(np.int32)), 0.5)
        write_rows(folder / CELLS_TABLE, key, pd.DataFrame({"cell_id": numbers, "equivalent_diameter_um": 6.0}))
        return StageResult("cells", "cells-1", {})

    make(WaitingStage(found, "slide_images", lambda _, f: acquire_slide(source, f, 0.5, 20_000)))
    make(WaitingStage(found, "epidermis_masks", mask))
    make(WaitingStage(found, "cell_masks", cells))
    return found


def layer_map(root):
    return tifffile.imread(root.folder("epidermis_layers", "s1") / "layers.ome.tif")


def test_a_slide_read_in_parts_has_the_layers_it_has_in_memory(root, monkeypatch):
    whole = make(LayersStage(root, LayerSettings()))
    assert whole.outcome == "measured"
    in_memory = layer_map(root)
    read = LayersStage(root, LayerSettings()).load
    assert isinstance(read("s1").mask, np.ndarray)
    for module in (slides, stage_parts):
        monkeypatch.setattr(module, "WHOLE_PX", 0)
    monkeypatch.setattr(depth, "BLOCK_PX", 512)
    parts = read("s1")
    assert isinstance(parts.slide.pixels, TiledPixels)
    assert isinstance(parts.mask, TiledLabels)
    assert isinstance(parts.instances, TiledLabels)
    stage = LayersStage(root, LayerSettings())
    stage.always = True  # type: ignore[misc]
    again = make(stage)
    np.testing.assert_array_equal(layer_map(root), in_memory)
    words = {name for name, value in whole.values.items() if isinstance(value, str)}
    assert {name: again.values[name] for name in words} == {name: whole.values[name] for name in words}
    numbers = whole.values.keys() - words
    assert [again.values[n] for n in sorted(numbers)] == pytest.approx([whole.values[n] for n in sorted(numbers)])
