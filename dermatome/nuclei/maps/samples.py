"""Validation patches with their truth and what a network finds on them, as a sheet of panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dermatome.classes import NucleusClass, TernaryClass
from dermatome.geometry import Size
from dermatome.imaging.contact_sheet import Panel, draw_sheet
from dermatome.imaging.overlay import draw_borders, tint
from dermatome.nuclei.maps.evaluate import KnownPatch, truth_of
from dermatome.nuclei.maps.overlays import SEMANTIC_COLOURS, TERNARY_COLOURS
from dermatome.slides.slide import MppSource, RgbImage, Slide

if TYPE_CHECKING:
    from dermatome.labels.drawn_maps import NucleusMaps
    from dermatome.nuclei.maps.segment import NucleusNetwork, NucleusSettings

SAMPLES = 5
_SIDE_PX = 300


class SamplePatch(KnownPatch, Protocol):
    """A patch and its truth, whose classes are counted."""

    @property
    def semantic_px(self) -> Sequence[int]:
        """Pixels of each class."""
        ...


def samples_sheet(
    patches: Sequence[SamplePatch], network: NucleusNetwork, mpp: float, settings: NucleusSettings
) -> bytes:
    """Image, true classes, found classes, and found inside and boundary of some patches: PNG bytes.

    Args:
        patches: of which those with the most classes are shown, by name where they have equally many.
        network: prepared to run, with ``settings``.
        mpp: microns per pixel of the patches.
        settings: of the segmentation.
    """
    from dermatome.nuclei.maps.segment import segment_nuclei

    shown = sorted(patches, key=lambda patch: (-np.count_nonzero(patch.semantic_px), patch.name))[:SAMPLES]
    slides = [Slide(patch.name, patch.read()[0], mpp, MppSource.DECLARED, "") for patch in shown]
    panels = []
    for number, (patch, slide, result) in enumerate(
        zip(shown, slides, segment_nuclei(slides, network, settings), strict=True), 1
    ):
        image, found = slide.whole(), result.whole()
        parts = tint(image, found.ternary, TERNARY_COLOURS, 0.5)
        pictures = (image, _classes(image, truth_of(patch)), _classes(image, found), parts)
        titles = ("image", "true", "found", "inside, boundary")
        panels += [
            Panel(picture, f"{number}  {title}", Size(*image.shape[:2]))
            for picture, title in zip(pictures, titles, strict=True)
        ]
    legend = [(c.label, c.colour) for c in NucleusClass if c is not NucleusClass.BACKGROUND]
    legend += [(c.label, c.colour) for c in TernaryClass if c is not TernaryClass.BACKGROUND]
    return draw_sheet(
        panels, 4, _SIDE_PX, mpp=mpp, name="Validation patches", facts=[patch.name for patch in shown[:1]],
        note=f"{mpp:g} µm per pixel", classes=legend,
    )  # fmt: skip


def _classes(image: RgbImage, maps: NucleusMaps) -> RgbImage:
    semantic = np.where(maps.semantic < len(SEMANTIC_COLOURS), maps.semantic, 0)
    return draw_borders(tint(image, semantic, SEMANTIC_COLOURS, 0.45), maps.instances, (20, 20, 20))
