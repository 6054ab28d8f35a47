"""Nuclei laid over their slide: the semantic or the ternary map in the source system's colours, outlines on top."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dermatome.classes import NucleusClass, TernaryClass
from dermatome.geometry import Box
from dermatome.imaging.overlay import draw_borders, sample_labels, tint

if TYPE_CHECKING:
    from dermatome.nuclei.maps.segment import NucleiResult
    from dermatome.slides.slide import RgbImage, Slide

SEMANTIC_COLOURS = tuple(c.colour for c in NucleusClass)
TERNARY_COLOURS = tuple(c.colour for c in TernaryClass)
OPACITY = 0.45


def semantic_overlay(
    slide: Slide, found: NucleiResult, *, opacity: float = OPACITY, max_side_px: int = 4096, outlines: bool = True
) -> RgbImage:
    """The slide, at most ``max_side_px`` a side, with each pixel of a nucleus tinted in the colour of its class.

    Args:
        slide: that was segmented.
        found: on it.
        opacity: 0 (slide only) to 1 (colours only).
        max_side_px: of the picture.
        outlines: whether each nucleus is outlined.
    """
    image = slide.overview(max_side_px)
    whole = Box.whole(slide.size)
    mixed = tint(image, sample_labels(found.semantic, whole, max_side_px), SEMANTIC_COLOURS, opacity)
    if not outlines:
        return mixed
    return draw_borders(mixed, sample_labels(found.instances, whole, max_side_px), (20, 20, 20))


def ternary_overlay(
    slide: Slide, found: NucleiResult, *, opacity: float = OPACITY, max_side_px: int = 4096
) -> RgbImage:
    """The slide with inside and boundary of nuclei tinted; arguments as of :func:`semantic_overlay`."""
    labels = sample_labels(found.ternary, Box.whole(slide.size), max_side_px)
    return tint(slide.overview(max_side_px), labels, TERNARY_COLOURS, opacity)
