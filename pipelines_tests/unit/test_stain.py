"""Stains by lookup tables are scikit-image's."""

from dataclasses import replace

import numpy as np
import pytest
from skimage.color import rgb2hed

from dermatome.classes import StainingPattern
from dermatome.imaging.background import slide_background
from dermatome.imaging.stains import (
    DECADIC_OD_PER_UNIT,
    RED_AND_BLUE_SWAPPED,
    STAIN_VECTORS,
    SWAPPED,
    Stain,
    separate_stains,
    why_no_stains,
)
from dermatome.slides.slide import read_slide
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


def test_green_swapped_with_another_channel_is_found_on_real_slides(realdata):
    for path in (*(realdata / "hpa_ihc").glob("*.jpg"), realdata / "ihc" / "K10.jpg"):
        slide = read_slide(path)
        rgb, i0 = slide.overview(512), np.array(slide_background(slide).i0)
        assert why_no_stains(rgb, i0) == ""
        for order in ([1, 0, 2], [0, 2, 1], [2, 0, 1]):
            assert why_no_stains(rgb[..., order], i0[order]) == SWAPPED, (path.name, order)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_other_arrays_are_refused(wrong):
    with pytest.raises(ValueError, match="uint8"):
        separate_stains(wrong)


def test_red_swapped_with_blue_is_found_where_both_stains_are(realdata):
    """Also on 55449_A_1_2, whose colours fit swapped dyes better than the published ones."""
    for path in (*(realdata / "hpa_ihc").glob("*.jpg"), realdata / "ihc" / "K10.jpg", realdata / "ihc" / "Ki67.jpg"):
        slide = read_slide(path)
        swapped = replace(slide, pixels=np.ascontiguousarray(slide.whole()[..., ::-1]))
        assert "swapped" in slide_background(swapped).no_stains, path.name
        assert slide_background(slide).no_stains == "", path.name


def test_stains_that_are_exchanged_are_told_by_green(realdata):
    slide = read_slide(realdata / "hpa_ihc" / "55449_A_1_2.jpg")
    rgb, i0 = slide.overview(512), np.array(slide_background(slide).i0)
    assert why_no_stains(rgb, i0) == ""
    assert why_no_stains(rgb[..., ::-1], i0[::-1]) == RED_AND_BLUE_SWAPPED


@pytest.mark.parametrize("seed", range(104, 110))
def test_a_core_without_dab_is_not_taken_for_a_swapped_one(seed):
    """Its clefts are blue-absorbing by noise alone, and are no second stain."""
    slide = toy_slide(seed, StainingPattern.NEGATIVE, size_px=512).slide
    assert slide_background(slide).no_stains == ""
