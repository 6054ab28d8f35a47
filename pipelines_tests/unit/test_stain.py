"""Stains by lookup tables are scikit-image's; a slide's own dyes are found, or the published ones used."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from skimage.color import rgb2hed

from dermatome.classes import StainingPattern, TissueClass
from dermatome.imaging.background import slide_background
from dermatome.imaging.ihc_stains import VectorSource, fit_ihc_slide, fit_ihc_stains, slide_stains
from dermatome.imaging.stain_normalisation import degrees_between
from dermatome.imaging.stains import (
    DECADIC_OD_PER_UNIT,
    RED_AND_BLUE_SWAPPED,
    STAIN_VECTORS,
    SWAPPED,
    Stain,
    separate_stains,
    why_no_stains,
)
from dermatome.labels.object_table import ObjectSums
from dermatome.skin.cells.segment import add_cell_pixels, cell_table
from dermatome.skin.layers.measure import measure_layers
from dermatome.skin.layers.settings import LayerSettings
from dermatome.slides.slide import MppSource, Slide, read_slide
from dermatome.synthetic.skin import toy_slide


@pytest.mark.parametrize("height", [1, 255, 256, 257, 600])
def test_the_same_as_scikit_image(height):
    rgb = np.random.default_rng(height).integers(0, 256, (height, 37, 3), dtype=np.uint8)
    rgb[0, :12] = [[r, g, b] for r in (0, 255) for g in (0, 1, 255) for b in (0, 255)]
    found = separate_stains(rgb)
    np.testing.assert_allclose(found, rgb2hed(rgb), atol=1e-5)
    assert np.isfinite(found).all()


def test_stains_come_in_the_order_asked_for():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    every = separate_stains(rgb)
    some = separate_stains(rgb, (Stain.DAB, Stain.HEMATOXYLIN))
    np.testing.assert_array_equal(some, every[..., [2, 0]])
    assert some.dtype == np.float32


def test_the_unit_is_a_sixth_of_decadic_optical_density():
    light = 255 * 10 ** -(0.6 * STAIN_VECTORS[Stain.DAB])
    pixel = np.rint(light).astype(np.uint8)[None, None]
    found = separate_stains(pixel)[0, 0] * DECADIC_OD_PER_UNIT
    np.testing.assert_allclose(found, [0, 0, 0.6], atol=0.01)


@pytest.fixture(scope="module")
def cores(realdata):
    """Real slides by name: cores of HPA and two others."""
    paths = (*sorted((realdata / "hpa_ihc").glob("*.jpg")), realdata / "ihc" / "K10.jpg", realdata / "ihc" / "Ki67.jpg")
    return {path.stem: read_slide(path) for path in paths}


def test_green_swapped_with_another_channel_is_found_on_real_slides(cores):
    for name, slide in cores.items():
        if name == "Ki67":
            continue
        rgb, i0 = slide.overview(512), np.array(slide_background(slide).i0)
        assert why_no_stains(rgb, i0) == ""
        for order in ([1, 0, 2], [0, 2, 1], [2, 0, 1]):
            assert why_no_stains(rgb[..., order], i0[order]) == SWAPPED, (name, order)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_other_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match="uint8"):
        separate_stains(wrong)


def test_red_swapped_with_blue_is_found_where_both_stains_are(cores):
    """Also on 55449_A_1_2, whose colours fit swapped dyes better than the published ones."""
    for name, slide in cores.items():
        swapped = replace(slide, pixels=np.ascontiguousarray(slide.whole()[..., ::-1]))
        found = slide_background(swapped).no_stains
        assert found == RED_AND_BLUE_SWAPPED if name == "55449_A_1_2" else "swapped" in found, name
        assert slide_background(slide).no_stains == "", name


@pytest.mark.parametrize(("copied", "onto"), [(0, 1), (1, 0), (1, 2), (2, 0), (0, 2)])
def test_a_channel_that_is_a_copy_of_another_is_found(cores, copied, onto):
    for name, slide in cores.items():
        pixels = slide.whole().copy()
        pixels[..., onto] = pixels[..., copied]
        assert "the same" in slide_background(replace(slide, pixels=pixels)).no_stains, name


@pytest.mark.parametrize("seed", range(104, 110))
def test_a_core_without_dab_is_not_taken_for_a_swapped_one(seed):
    """Its clefts are blue-absorbing by noise alone, and are no second stain."""
    slide = toy_slide(seed, StainingPattern.NEGATIVE, size_px=512).slide
    assert slide_background(slide).no_stains == ""


H, DAB = STAIN_VECTORS[Stain.HEMATOXYLIN], STAIN_VECTORS[Stain.DAB]


def turned(vector, towards, degrees):
    """The vector, as long as it was, turned in the plane with another one."""
    length = np.linalg.norm(vector)
    across = towards - vector * (towards @ vector) / length**2
    angle = np.radians(degrees)
    return np.cos(angle) * vector + np.sin(angle) * across / np.linalg.norm(across) * length


OUT = np.cross(H, DAB)
DYES = {
    "published": (H, DAB),
    "apart": (turned(H, DAB, -7), turned(DAB, H, -15)),
    "both by 15, one way": (turned(H, DAB, 15), turned(DAB, H, -15)),
    "out of the plane": (turned(H, OUT, 15), turned(DAB, OUT, 15)),
    "out of the plane, the other way": (turned(H, OUT, -15), turned(DAB, OUT, -15)),
}


def dyed(toy, dyes):
    """The toy in these colours of hematoxylin and DAB, photographed under a lamp of 240 with a camera's noise."""
    vectors = np.stack([dyes[0], STAIN_VECTORS[Stain.EOSIN], dyes[1]])
    light = 240 * 10 ** -(toy.densities @ vectors)
    light += np.random.default_rng(0).normal(0, 2.5, light.shape) * np.sqrt(light / 255)
    return Slide("toy", np.rint(light.clip(0, 255)).astype(np.uint8), 0.5, MppSource.DECLARED, "0" * 64)


@pytest.fixture(scope="module")
def drawn():
    """Draws each toy once."""
    return cache(toy_slide)


@pytest.mark.parametrize("dyes", DYES.values(), ids=DYES)
@pytest.mark.parametrize("pattern", [StainingPattern.BASAL, StainingPattern.SUPRABASAL, StainingPattern.WHOLE])
def test_dab_is_recovered_within_5_percent_whatever_the_dyes(drawn, pattern, dyes):
    off = []
    for seed in (0, 1, 2):
        toy = drawn(seed, pattern, size_px=640, strength=0.6)
        slide = dyed(toy, dyes)
        background = slide_background(slide)
        found = fit_ihc_slide(slide, background.i0)
        assert found.source is VectorSource.SLIDE
        amounts = separate_stains(slide.whole(), (Stain.DAB,), background.i0, found.matrix)[..., 0]
        stained = (toy.mask == TissueClass.EPIDERMIS) & (toy.densities[..., Stain.DAB] > 0.1)
        truth = toy.densities[..., Stain.DAB][stained].mean()
        off.append(float(amounts[stained].mean() * DECADIC_OD_PER_UNIT / truth - 1))
    # A basal row has few stained cells.
    assert max(map(abs, off)) <= (0.06 if pattern is StainingPattern.BASAL else 0.05), off


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 0, 2], [0, 2, 1]])
def test_swapped_channels_are_no_dyes(drawn, order):
    slide = dyed(drawn(1, StainingPattern.BASAL, size_px=640, strength=0.6), DYES["published"])
    assert slide_stains(slide, "slide")[1].source is VectorSource.SLIDE
    swapped = replace(slide, pixels=np.ascontiguousarray(slide.whole()[..., order]))
    background, vectors = slide_stains(swapped, "slide")
    reason = RED_AND_BLUE_SWAPPED if order == [2, 1, 0] else SWAPPED
    assert (background.no_stains, vectors.source) == (reason, VectorSource.FALLBACK)


def test_cells_and_layers_are_measured_with_the_same_colours():
    toy = toy_slide(3, StainingPattern.WHOLE, size_px=640, strength=0.6)
    slide = dyed(toy, DYES["both by 15, one way"])
    total = np.bincount(toy.instances.ravel(), weights=toy.densities[..., Stain.DAB].ravel())
    cell = np.argwhere(toy.instances == 1 + total[1:].argmax())
    truth = toy.densities[cell[:, 0], cell[:, 1], Stain.DAB].mean()
    error = {}
    for source in ("standard", "slide"):
        background, vectors = slide_stains(slide, source)
        sums = ObjectSums()
        rgb = slide.whole()[cell[:, 0], cell[:, 1]]
        add_cell_pixels(sums, np.ones(len(cell), int), cell[:, 0], cell[:, 1], rgb, background, vectors)
        error[source] = abs(cell_table(np.array([1]), sums, 0.5, background)["mean_dab_od"][0] / truth - 1)
    assert error["slide"] < 0.07 < error["standard"]


def test_layers_record_the_colours_and_those_of_turned_dyes_need_the_slide_s_own():
    toy = toy_slide(3, StainingPattern.WHOLE, size_px=640, strength=0.6)
    cells = pd.DataFrame({"cell_id": [1], "equivalent_diameter_um": [7.0]})
    slide = dyed(toy, DYES["both by 15, one way"])
    truth = toy.densities[..., Stain.DAB][toy.mask == TissueClass.EPIDERMIS].mean()
    error = {}
    for source in ("standard", "slide"):
        found = measure_layers(slide, toy.mask, toy.instances, cells, LayerSettings(stain_vectors=source))
        assert (found.vectors.source, found.vectors.check().passed) == (source, True)
        mean = np.average(found.layers["mean_dab_od"].to_numpy(float), weights=found.layers["area_px"])
        error[source] = abs(mean / truth - 1)
        assert found.vectors.values["stain_source"] == source
    assert error["slide"] < 0.05 < error["standard"]


@pytest.mark.parametrize(
    ("pixels", "why"),
    [
        (np.full((5000, 3), 240, np.uint8), "too little stained tissue"),
        (np.zeros((0, 3), np.uint8), "too little stained tissue"),
        (dyed(toy_slide(4, StainingPattern.NEGATIVE, size_px=448), (H, DAB)).whole(), "published colours, as"),
        (
            dyed(toy_slide(4, StainingPattern.WHOLE, size_px=448), (H, np.array([0.1, 0.9, 0.3]))).whole(),
            "not those of hematoxylin and DAB",
        ),
    ],
)
def test_where_they_cannot_be_estimated_the_published_ones_are_used_and_the_check_says_why(pixels, why):
    found = fit_ihc_stains(pixels.reshape(-1, 3), (240, 240, 240))
    assert found.source is VectorSource.FALLBACK
    np.testing.assert_array_equal(found.matrix, STAIN_VECTORS)
    check = found.check()
    assert (check.name, check.passed, check.values["stain_source"]) == ("stain_vectors_found", False, "fallback")
    assert why in check.description


def test_real_cores_have_colours_near_the_published_ones_or_say_why_not(cores):
    for slide in (slide for name, slide in cores.items() if name not in ("K10", "Ki67")):
        found = fit_ihc_slide(slide, slide_background(slide).i0)
        off = [degrees_between(found.matrix[stain], STAIN_VECTORS[stain]) for stain in (Stain.HEMATOXYLIN, Stain.DAB)]
        assert max(off) <= 20
        assert (found.source is VectorSource.FALLBACK) == bool(found.why)
