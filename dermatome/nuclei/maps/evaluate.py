"""Evaluates a nucleus network on annotated images: maps, instances and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, RgbImage
from dermatome.errors import BadSetting
from dermatome.geometry import Box
from dermatome.labels.drawn_maps import NucleusMaps
from dermatome.metrics.panoptic import ImageScores, score_nuclei
from dermatome.nuclei.maps.network import NucleusCard
from dermatome.nuclei.maps.segment import NucleusNetwork, segment_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.slides.slide import MppSource, Slide

if TYPE_CHECKING:
    from dermatome.nuclei.patches.files import Patch
    from dermatome.training.weights import LoadedWeights


def evaluate_patches(
    patches: Sequence[Patch], network: NucleusNetwork, mpp: float, settings: NucleusSettings | None = None
) -> list[ImageScores]:
    """Scores on each annotated image, which is assembled from its patches and segmented like a slide.

    So each nucleus counts once, in full, however many patches show or cut it. Two things are void: pixels that are on
    no patch, and nuclei below the size limit of segmentation (``min_area_um2`` of the settings), such as slivers at the
    image's edge.
    """
    settings = settings or NucleusSettings()
    of: dict[str, list[Patch]] = {}
    for patch in patches:
        of.setdefault(patch.slide, []).append(patch)
    scores = []
    for name, own in of.items():
        rgb, truth = joined_image(own)
        (found,) = segment_nuclei([Slide(name, rgb, mpp, MppSource.DECLARED, "")], network, settings)
        scores.append(score_nuclei(_without_small(truth, settings.instances.min_area_um2 / mpp**2), found.whole(), mpp))
    return scores


def check_stain(name: str, loaded: LoadedWeights[NucleusCard], patches: Sequence[Patch]) -> None:
    """Refuses stain-normalised patches for a network that was trained without normalisation, and the reverse.

    Raises:
        BadSetting: some patches differ in normalisation from the network's training patches.
    """
    learnt = loaded.card.normalised_stain
    if other := [patch.name for patch in patches if patch.normalised != learnt]:
        raise BadSetting(
            f"{name} was trained on patches {'with' if learnt else 'without'} normalise_stain, but {len(other)} "
            f"patches differ, such as {other[0]}: cut these like the others."
        )


def joined_image(patches: Sequence[Patch]) -> tuple[RgbImage, NucleusMaps]:
    """An annotated image and its ground truth, assembled from its patches; elsewhere it is white and ignored."""
    height_px, width_px = max(p.box.bottom_px for p in patches), max(p.box.right_px for p in patches)
    rgb = np.full((height_px, width_px, 3), 255, np.uint8)
    maps = np.full((height_px, width_px, 2), IGNORED, np.uint8)
    instances = np.zeros((height_px, width_px), np.int32)
    for patch in patches:
        pixels, labels = patch.read()
        part = Box.whole(patch.box.size).slices
        for whole, array in ((rgb, pixels), (maps, labels), (instances, patch.instances())):
            whole[patch.box.slices] = array[part]
    return rgb, _truth(maps, instances)


def truth_of(patch: Patch) -> NucleusMaps:
    """The ground truth of one patch alone, on which nuclei at the border are cut."""
    return _truth(patch.read()[1], patch.instances())


def _truth(maps: npt.NDArray[np.uint8], instances: npt.NDArray[np.int32]) -> NucleusMaps:
    """The ground truth from (H, W, 2) maps and arbitrarily numbered nuclei; a nucleus has the class of its pixels."""
    seen = np.union1d(0, instances)
    numbered = np.searchsorted(seen, instances).astype(np.int32)
    semantic, ternary = (np.ascontiguousarray(maps[..., place]) for place in range(2))
    classes = np.zeros(len(seen), np.uint8)
    inside = numbered > 0
    classes[numbered[inside]] = semantic[inside]
    return NucleusMaps(numbered, semantic, ternary, classes)


def _without_small(truth: NucleusMaps, least_px: float) -> NucleusMaps:
    small = np.bincount(truth.instances.ravel()) < least_px
    small[0] = False
    void = small[truth.instances]
    maps = np.where(void[..., None], np.uint8(IGNORED), np.stack([truth.semantic, truth.ternary], axis=-1))
    return _truth(maps, np.where(void, 0, truth.instances))
