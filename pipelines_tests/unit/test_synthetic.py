"""Synthetic slides follow their seed and their ground truth; the mock HPA server answers as HPA does."""

import cv2
import numpy as np
import pytest
import requests
from skimage.color import rgb2hed

from dermatome.classes import NucleusClass, StainingPattern, TernaryClass, TissueClass
from dermatome.geometry import Size
from dermatome.imaging.stains import Stain, separate_stains
from dermatome.labels.drawn_maps import ternary_map
from dermatome.skin.tiles.crops import load_tiles
from dermatome.skin.tiles.varied import varied_tile, write_varied_tiles
from dermatome.synthetic.hpa_server import MockHpaServer
from dermatome.synthetic.nuclei import toy_nuclei
from dermatome.synthetic.skin import ToyStain, toy_slide


@pytest.fixture(scope="module")
def slides():
    return {pattern: toy_slide(11, pattern, island=True) for pattern in StainingPattern}


def test_a_seed_gives_the_same_slide_and_another_seed_another():
    one, again, other = (toy_slide(seed, size_px=400) for seed in (5, 5, 6))
    assert one.slide.sha256 == again.slide.sha256 != other.slide.sha256
    np.testing.assert_array_equal(one.instances, again.instances)


def test_sections_of_one_seed_share_tissue_and_nuclei():
    ihc, he = (toy_slide(7, size_px=500, stain=stain) for stain in ToyStain)
    np.testing.assert_array_equal(ihc.mask, he.mask)
    np.testing.assert_array_equal(ihc.instances, he.instances)
    assert not np.array_equal(ihc.slide.pixels, he.slide.pixels)
    assert he.densities[..., 2].max() == 0


def test_every_class_is_there_and_nuclei_lie_in_the_epidermis(slides):
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


def test_an_island_is_a_second_piece_of_epidermis_in_the_dermis():
    for island, pieces in ((True, 2), (False, 1)):
        slide = toy_slide(11, island=island)
        epidermis = (slide.mask == TissueClass.EPIDERMIS).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(epidermis)
        assert (stats[1:, cv2.CC_STAT_AREA] > 1500).sum() == pieces


def test_dab_lies_where_the_pattern_says(slides):
    def mean_dab(slide, where):
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


def test_the_true_densities_are_those_the_pixels_show(slides):
    for slide in slides.values():
        seen = 6 * rgb2hed(slide.slide.pixels)
        tissue = slide.mask == TissueClass.EPIDERMIS
        for stain in (0, 2):
            assert abs(seen[tissue][:, stain].mean() - slide.densities[tissue][:, stain].mean()) < 0.06


def test_layers_count_away_from_the_dermis(slides):
    slide = slides[StainingPattern.WHOLE]
    assert ((slide.layers > 0) == (slide.mask == TissueClass.EPIDERMIS)).all()
    assert (slide.layers[slide.basal & (slide.instances > 0)] == 1).mean() > 0.7


@pytest.fixture(scope="module")
def field():
    return toy_nuclei(0, Size(400, 520))


def areas_um2(field, kind):
    whole = np.setdiff1d(np.unique(field.maps.instances), np.unique(edge(field.maps.instances)))
    numbers = [n for n in whole if field.maps.classes[n] == kind]
    return np.bincount(field.maps.instances.ravel())[numbers] * field.slide.mpp**2


def edge(labels):
    return np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])


def test_a_seed_gives_one_field_and_another_seed_another(field):
    again, other = toy_nuclei(0, Size(400, 520)), toy_nuclei(1, Size(400, 520))
    np.testing.assert_array_equal(field.slide.whole(), again.slide.whole())
    np.testing.assert_array_equal(field.maps.instances, again.maps.instances)
    assert field.slide.sha256 == again.slide.sha256 != other.slide.sha256


def test_the_ground_truth_of_nuclei_agrees_with_itself(field):
    maps = field.maps
    assert maps.instances.shape == field.slide.whole().shape[:2] == (400, 520)
    assert np.unique(maps.instances).tolist() == list(range(len(maps.classes)))
    np.testing.assert_array_equal(maps.semantic, maps.classes[maps.instances])
    np.testing.assert_array_equal(maps.ternary, ternary_map(maps.instances))
    assert not maps.ignored.any()


def test_all_classes_of_nuclei_are_there_and_some_touch(field):
    assert (np.bincount(field.maps.classes, minlength=5) >= [1, 30, 15, 5, 5]).all()
    left, right = field.maps.instances[:, :-1], field.maps.instances[:, 1:]
    touching = (left != right) & (left > 0) & (right > 0)
    assert len(np.unique(left[touching])) >= 15


def test_classes_of_nuclei_differ_in_size_and_chromatin(field):
    small, large = (areas_um2(field, kind).mean() for kind in (NucleusClass.LYMPHOCYTE, NucleusClass.EPITHELIAL))
    assert 20 < small < 40 < large < 110
    hematoxylin = separate_stains(field.slide.whole(), [Stain.HEMATOXYLIN])[..., 0]
    inside = field.maps.ternary == TernaryClass.INSIDE
    dark, pale, around = (
        hematoxylin[part].mean()
        for part in (
            inside & (field.maps.semantic == NucleusClass.LYMPHOCYTE),
            inside & (field.maps.semantic == NucleusClass.EPITHELIAL),
            field.maps.instances == 0,
        )
    )
    assert dark > 1.3 * pale > 2 * around


def test_epithelium_is_in_nests_and_other_scales_are_drawn():
    field = toy_nuclei(4, Size(100, 90), mpp=0.5)
    epithelial = field.maps.semantic == NucleusClass.EPITHELIAL
    assert epithelial.any()
    assert field.nests[epithelial].mean() > 0.7
    assert toy_nuclei(2, Size(20, 33)).slide.whole().shape == (20, 33, 3)


def test_the_mock_hpa_server_sends_what_has_changed():
    with MockHpaServer({"ENSG1": b"<xml/>"}, {"/images/1/a.jpg": b"jpeg"}) as server:
        page = requests.get(f"{server.url}/ENSG1.xml?x=1", timeout=5)
        assert (page.content, page.headers["Content-Type"]) == (b"<xml/>", "text/xml; charset=utf-8")
        known = {"If-None-Match": page.headers["ETag"]}
        assert requests.get(f"{server.url}/ENSG1.xml", headers=known, timeout=5).status_code == 304
        assert requests.get(f"{server.url}/images/1/a.jpg", timeout=5).content == b"jpeg"
        assert requests.get(f"{server.url}/ENSG2.xml", headers=known, timeout=5).status_code == 404


def test_varied_tiles_follow_their_seed_and_show_every_class():
    drawn = [varied_tile(seed, size_px=128) for seed in range(16)]
    np.testing.assert_array_equal(varied_tile(3, size_px=128)[0], drawn[3][0])
    pixels, masks = np.stack([image for image, _ in drawn]), np.stack([mask for _, mask in drawn])
    assert pixels.dtype == masks.dtype == np.uint8
    assert pixels.shape == (16, 128, 128, 3)
    assert masks.shape == (16, 128, 128)
    shares = np.bincount(masks.ravel(), minlength=len(TissueClass)) / masks.size
    assert shares.size == len(TissueClass)
    assert (shares > 0.03).all()
    # Background is lighter than tissue on every slide, whatever its stain and tint.
    for image, mask in drawn:
        if (mask == TissueClass.EPIDERMIS).mean() > 0.05 and (mask == TissueClass.BACKGROUND).mean() > 0.05:
            assert image[mask == TissueClass.EPIDERMIS].mean() < image[mask == TissueClass.BACKGROUND].mean() - 10


def test_varied_tiles_are_written_as_training_reads_them(tmp_path):
    tiles = load_tiles(write_varied_tiles(tmp_path, 2, mpp=1.0, seed=4))
    assert len({tile.group for tile in tiles}) == 2  # each may be held out
    for number, tile in enumerate(tiles):
        assert tile.licence == "MIT"
        for read, drawn in zip(tile.read(), varied_tile(4_000_000 + number, mpp=1.0), strict=True):
            np.testing.assert_array_equal(read, drawn)
