"""Toy slides: the same for a seed, with the truth they claim."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2hed

from dermatome.classes import StainingPattern, TissueClass
from dermatome.synthetic.skin import ToySlide, ToyStain, toy_slide


@pytest.fixture(scope="module")
def slides() -> dict[StainingPattern, ToySlide]:
    return {pattern: toy_slide(11, pattern, island=True) for pattern in StainingPattern}


def test_a_seed_gives_the_same_slide_and_another_seed_another() -> None:
    one, again, other = (toy_slide(seed, size_px=400) for seed in (5, 5, 6))
    assert one.slide.sha256 == again.slide.sha256 != other.slide.sha256
    np.testing.assert_array_equal(one.instances, again.instances)


def test_sections_of_one_seed_share_tissue_and_nuclei() -> None:
    ihc, he = (toy_slide(7, size_px=500, stain=stain) for stain in ToyStain)
    np.testing.assert_array_equal(ihc.mask, he.mask)
    np.testing.assert_array_equal(ihc.instances, he.instances)
    assert not np.array_equal(ihc.slide.pixels, he.slide.pixels)
    assert he.densities[..., 2].max() == 0


def test_every_class_is_there_and_nuclei_lie_in_the_epidermis(slides: dict[StainingPattern, ToySlide]) -> None:
    for slide in slides.values():
        shares = np.bincount(slide.mask.ravel(), minlength=4) / slide.mask.size
        assert shares.size == 4
        assert (shares > [0.1, 0.1, 0.05, 0.01]).all()
        count = slide.instances.max()
        assert 150 <= count <= 700
        areas = np.bincount(slide.instances.ravel(), minlength=count + 1)[1:]
        assert areas.min() > 0
        assert 13 < slide.nucleus_diameter_px < 21
        inside = slide.mask[slide.instances > 0] == TissueClass.EPIDERMIS
        assert inside.mean() > 0.98
        assert (slide.mask[slide.dermal_nuclei > 0] == TissueClass.DERMIS).mean() > 0.98


def test_an_island_is_a_second_piece_of_epidermis_in_the_dermis(slides: dict[StainingPattern, ToySlide]) -> None:
    import cv2

    for island, pieces in ((True, 2), (False, 1)):
        slide = toy_slide(11, island=island)
        epidermis = (slide.mask == TissueClass.EPIDERMIS).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(epidermis)
        assert (stats[1:, cv2.CC_STAT_AREA] > 1500).sum() == pieces


def test_dab_lies_where_the_pattern_says(slides: dict[StainingPattern, ToySlide]) -> None:
    def mean_dab(slide: ToySlide, where: np.ndarray) -> float:
        return float(rgb2hed(slide.slide.pixels)[..., 2][where].mean())

    found = {}
    for pattern, slide in slides.items():
        upper = (slide.mask == TissueClass.EPIDERMIS) & ~slide.basal
        found[pattern] = mean_dab(slide, slide.basal), mean_dab(slide, upper)
    strong, weak = 0.04, 0.025
    assert found[StainingPattern.BASAL][0] > strong
    assert found[StainingPattern.BASAL][1] < weak
    assert found[StainingPattern.SUPRABASAL][0] < weak
    assert found[StainingPattern.SUPRABASAL][1] > strong
    assert min(found[StainingPattern.WHOLE]) > strong
    assert max(found[StainingPattern.NEGATIVE]) < weak


def test_the_true_densities_are_those_the_pixels_show(slides: dict[StainingPattern, ToySlide]) -> None:
    for slide in slides.values():
        seen = 6 * rgb2hed(slide.slide.pixels)
        tissue = slide.mask == TissueClass.EPIDERMIS
        for stain in (0, 2):
            assert abs(seen[tissue][:, stain].mean() - slide.densities[tissue][:, stain].mean()) < 0.06


def test_layers_count_away_from_the_dermis(slides: dict[StainingPattern, ToySlide]) -> None:
    slide = slides[StainingPattern.WHOLE]
    assert ((slide.layers > 0) == (slide.mask == TissueClass.EPIDERMIS)).all()
    assert (slide.layers[slide.basal & (slide.instances > 0)] == 1).mean() > 0.7


def test_a_jpeg_of_it_looks_the_same() -> None:
    slide = toy_slide(2, size_px=400)
    with Image.open(io.BytesIO(slide.jpeg())) as image:
        decoded = np.asarray(image)
    assert np.abs(decoded.astype(int) - slide.slide.pixels).mean() < 4
