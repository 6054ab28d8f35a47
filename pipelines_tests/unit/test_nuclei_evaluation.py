"""Scores of a network on annotated images: each nucleus counts once, however patches cut it."""

from types import SimpleNamespace

import numpy as np
import pytest

from dermatome.geometry import Size
from dermatome.labels.drawn_maps import NucleusMaps
from dermatome.metrics.panoptic import nucleus_values
from dermatome.nuclei.maps import evaluate as evaluation
from dermatome.nuclei.maps.evaluate import evaluate_patches, joined_image
from dermatome.nuclei.patches.annotated import annotated_images, read_annotated
from dermatome.nuclei.patches.cut import make_patches
from dermatome.nuclei.patches.files import load_patches
from dermatome.nuclei.patches.settings import PatchSettings
from dermatome.synthetic.nuclei import toy_nuclei
from pipelines_tests.nuclei_case import save_toy_case

LEAST_PX = 96
"""6 µm² at 0.25 µm per pixel."""


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Two toys as one patient's annotated images, their truth, and patches at half their side."""
    folder = tmp_path_factory.mktemp("case")
    toys = [toy_nuclei(seed, Size(150, 130), name=f"toy{seed}") for seed in (5, 6)]
    save_toy_case(folder / "in", toys)
    make_patches(folder / "in", folder / "out", PatchSettings(size_px=64, stride_px=32))
    return [read_annotated(image, 0.25).maps for image in annotated_images(folder / "in")], load_patches(folder / "out")


def without_small(maps: NucleusMaps) -> NucleusMaps:
    """What a network that is always right finds: nuclei below the least area are dropped by rule."""
    keep = np.bincount(maps.instances.ravel()) >= LEAST_PX
    keep[0] = False
    instances = (np.cumsum(keep) * keep)[maps.instances]
    return NucleusMaps(instances, maps.semantic, maps.ternary, np.array([0, *maps.classes[keep]], np.uint8))


def test_a_network_that_is_always_right_scores_one_and_each_nucleus_counts_once(case, monkeypatch):
    truths, patches = case
    areas = [np.bincount(maps.instances.ravel())[1:] for maps in truths]
    assert any((area < LEAST_PX).any() for area in areas), "no nucleus is so small that it is dropped"
    found = iter([[SimpleNamespace(whole=lambda maps=maps: without_small(maps))] for maps in truths])
    monkeypatch.setattr(evaluation, "segment_nuclei", lambda *_: next(found))
    images = evaluate_patches(patches, None, 0.25)
    assert [image.nuclei for image in images] == [int((area >= LEAST_PX).sum()) for area in areas]
    values = nucleus_values(images)
    perfect = ("pq_binary", "pq_classes", "aji", "aji_micro", "f1_detection", "class_accuracy", "dice_mean_macro")
    assert {name: values[name] for name in perfect} == dict.fromkeys(perfect, 1.0)


def test_patches_put_together_are_their_image_and_what_no_patch_shows_is_ignored(case):
    truths, patches = case
    own = [patch for patch in patches if patch.image == "toy5"]
    _, joined = joined_image(own)
    np.testing.assert_array_equal(joined.instances, truths[0].instances)
    np.testing.assert_array_equal(joined.semantic, truths[0].semantic)
    np.testing.assert_array_equal(joined.classes, truths[0].classes)
    some = [patch for patch in own if patch.box.top_px == 0 or patch.box.left_px == 66]
    rgb, part = joined_image(some)
    assert part.ignored[64:, :66].all()
    assert not part.ignored[:64].any()
    assert (rgb[64:, :66] == 255).all()
