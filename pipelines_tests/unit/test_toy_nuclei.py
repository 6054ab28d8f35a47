"""Toy nuclei: the same for a seed, true to their own truth, and told apart by what tells real ones apart."""

import numpy as np
import pytest

from dermatome.classes import NucleusClass, TernaryClass
from dermatome.geometry import Size
from dermatome.imaging.stains import Stain, separate_stains
from dermatome.labels.drawn_maps import ternary_map
from dermatome.synthetic.nuclei import ToyNuclei, toy_nuclei


@pytest.fixture(scope="module")
def toy() -> ToyNuclei:
    return toy_nuclei(0, Size(400, 520))


def areas_um2(toy: ToyNuclei, kind: NucleusClass) -> np.ndarray:
    whole = np.setdiff1d(np.unique(toy.maps.instances), np.unique(edge(toy.maps.instances)))
    numbers = [n for n in whole if toy.maps.classes[n] == kind]
    return np.bincount(toy.maps.instances.ravel())[numbers] * toy.slide.mpp**2


def edge(labels: np.ndarray) -> np.ndarray:
    return np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])


def test_a_seed_gives_one_field_and_another_seed_another(toy: ToyNuclei) -> None:
    again, other = toy_nuclei(0, Size(400, 520)), toy_nuclei(1, Size(400, 520))
    np.testing.assert_array_equal(toy.slide.whole(), again.slide.whole())
    np.testing.assert_array_equal(toy.maps.instances, again.maps.instances)
    assert toy.slide.sha256 == again.slide.sha256 != other.slide.sha256


def test_the_truth_agrees_with_itself(toy: ToyNuclei) -> None:
    maps = toy.maps
    assert maps.instances.shape == toy.slide.whole().shape[:2] == (400, 520)
    assert np.unique(maps.instances).tolist() == list(range(len(maps.classes)))
    np.testing.assert_array_equal(maps.semantic, maps.classes[maps.instances])
    np.testing.assert_array_equal(maps.ternary, ternary_map(maps.instances))
    assert not maps.ignored.any()


def test_all_classes_are_there_and_some_nuclei_touch(toy: ToyNuclei) -> None:
    assert (np.bincount(toy.maps.classes, minlength=5) >= [1, 30, 15, 5, 5]).all()
    left, right = toy.maps.instances[:, :-1], toy.maps.instances[:, 1:]
    touching = (left != right) & (left > 0) & (right > 0)
    assert len(np.unique(left[touching])) >= 15


def test_classes_differ_in_size_and_chromatin_as_in_life(toy: ToyNuclei) -> None:
    small, large = (areas_um2(toy, kind).mean() for kind in (NucleusClass.LYMPHOCYTE, NucleusClass.EPITHELIAL))
    assert 20 < small < 40 < large < 110
    hematoxylin = separate_stains(toy.slide.whole(), [Stain.HEMATOXYLIN])[..., 0]
    inside = toy.maps.ternary == TernaryClass.INSIDE
    dark, pale, around = (
        hematoxylin[part].mean()
        for part in (
            inside & (toy.maps.semantic == NucleusClass.LYMPHOCYTE),
            inside & (toy.maps.semantic == NucleusClass.EPITHELIAL),
            toy.maps.instances == 0,
        )
    )
    assert dark > 1.3 * pale > 2 * around


def test_epithelium_is_in_nests_and_other_scales_are_drawn() -> None:
    toy = toy_nuclei(4, Size(100, 90), mpp=0.5)
    epithelial = toy.maps.semantic == NucleusClass.EPITHELIAL
    assert epithelial.any()
    assert toy.nests[epithelial].mean() > 0.7
    assert toy_nuclei(2, Size(20, 33)).slide.whole().shape == (20, 33, 3)
