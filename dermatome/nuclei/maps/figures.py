"""Overlays and figures of nuclei: a slide's maps, validation patches; the charts of training; PNG bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dermatome.classes import UNCLASSIFIED, NucleusClass, RgbImage, TernaryClass
from dermatome.geometry import Box, Size
from dermatome.imaging.overlay import draw_borders, enlarge, sample_labels, tint
from dermatome.nuclei.maps.evaluate import truth_of
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.reports.figures import (
    DETAIL_UM,
    LOSS_CHART,
    SIDE_PX,
    Chart,
    Line,
    Panel,
    SlideFigure,
    busiest_square,
    contact_sheet,
    longest_px,
    middle,
    preview_panel,
)
from dermatome.slides.slide import MppSource, Slide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dermatome.labels.drawn_maps import NucleusMaps
    from dermatome.nuclei.maps.segment import NucleiResult, NucleusNetwork
    from dermatome.nuclei.patches.files import Patch

SEMANTIC_COLOURS = tuple(c.colour for c in NucleusClass)
TERNARY_COLOURS = tuple(c.colour for c in TernaryClass)
OPACITY = 0.45
_NUCLEI, _PARTS = list(NucleusClass)[1:], list(TernaryClass)[1:]
_LEGEND = (*((c.label, c.colour) for c in _NUCLEI), *((c.label, c.colour) for c in _PARTS))
_DARK = (20, 20, 20)
_SAMPLES, _SAMPLE_PX = 5, 300
# The source system's yellow and green are meant for dark tissue; on white they must be darker.
_LINES = {"epithelial": "#d62728", "lymphocyte": "#1f77d0", "neutrophil": "#b58900", "macrophage": "#2ca02c"}
_PART_LINES = {"inside": "#009e73", "boundary": "#d55e00"}
NUCLEUS_CHARTS = (
    LOSS_CHART,
    Chart("Learning rate", (Line("learning_rate", "learning rate"),), share=False),
    Chart("Score by which epochs are chosen", (Line("score", "score"),)),
    Chart("Dice of the ternary map", tuple(Line(f"ternary_dice_{p}", p, c) for p, c in _PART_LINES.items())),
    Chart("Dice of classes", tuple(Line(f"dice_{label}", label, colour) for label, colour in _LINES.items())),
    Chart("IoU of classes", tuple(Line(f"iou_{label}", label, colour) for label, colour in _LINES.items())),
)


def semantic_overlay(slide: Slide, found: NucleiResult, opacity: float, max_side_px: int = 4096) -> RgbImage:
    """Tints each pixel of a nucleus with the colour of its class; opacity 0 shows the slide only, 1 colours only."""
    labels = sample_labels(found.semantic, Box.whole(slide.size), max_side_px)
    return tint(slide.overview(max_side_px), labels, SEMANTIC_COLOURS, opacity)


def outlined_overlay(slide: Slide, found: NucleiResult, opacity: float, max_side_px: int = 4096) -> RgbImage:
    """Adds the outline of each nucleus to :func:`semantic_overlay`."""
    instances = sample_labels(found.instances, Box.whole(slide.size), max_side_px)
    return draw_borders(semantic_overlay(slide, found, opacity, max_side_px), instances, _DARK)


def ternary_overlay(slide: Slide, found: NucleiResult, opacity: float, max_side_px: int = 4096) -> RgbImage:
    """Tints the inside and boundary of nuclei."""
    labels = sample_labels(found.ternary, Box.whole(slide.size), max_side_px)
    return tint(slide.overview(max_side_px), labels, TERNARY_COLOURS, opacity)


def maps_figure(slide: Slide, found: NucleiResult) -> SlideFigure:
    """Shows the original, classes, inside and boundary, and the busiest part enlarged with outlines."""
    size = slide.size
    side_px = longest_px(size)
    detail = busiest_square(found.table, Box.whole(size), round(DETAIL_UM / slide.mpp))
    pixels, instances = enlarge(slide.pixels[detail.slices], found.instances[detail.slices], 2 * SIDE_PX)
    _, semantic = enlarge(slide.pixels[detail.slices], found.semantic[detail.slices], 2 * SIDE_PX)
    close = draw_borders(tint(pixels, semantic, SEMANTIC_COLOURS, 0.3), instances, width_px=3)
    classes = semantic_overlay(slide, found, OPACITY, side_px)
    panels = (
        Panel(slide.overview(side_px), "a  Original", size, (detail,)),
        Panel(classes, "b  Classes", size, (detail,)),
        Panel(ternary_overlay(slide, found, OPACITY, side_px), "c  Inside and boundary", size, (detail,)),
        Panel(close, "d  Nuclei, framed part", detail.size),
    )
    counts = found.table["class"].value_counts()
    total = f"{len(found.table):,} nuclei"
    colours = {c.label: c.colour for c in _NUCLEI} | {UNCLASSIFIED: (255, 255, 255)}
    counted = [(f"{counts[label]:,} {label}", colour) for label, colour in colours.items() if label in counts]
    sheet = contact_sheet(
        panels, 4, SIDE_PX, name=slide.name, facts=[total, *(text for text, _ in counted)], note=slide.mpp_note,
        mpp=slide.mpp, legend=_LEGEND,
    )  # fmt: skip
    return SlideFigure(sheet, preview_panel(middle(panels[-1]), slide.name, [total, *counted], slide.mpp))


def samples_figure(patches: Sequence[Patch], network: NucleusNetwork, mpp: float, settings: NucleusSettings) -> bytes:
    """Shows validation patches: image, true classes, found classes, and found inside and boundary.

    It shows those with the most classes.
    """
    from dermatome.nuclei.maps.segment import segment_nuclei

    shown = sorted(patches, key=lambda patch: (-np.count_nonzero(patch.semantic_px), patch.name))[:_SAMPLES]
    slides = [Slide(patch.name, patch.read()[0], mpp, MppSource.DECLARED, "") for patch in shown]
    panels = []
    for patch, slide, result in zip(shown, slides, segment_nuclei(slides, network, settings), strict=True):
        image, found = slide.whole(), result.whole()
        parts = tint(image, found.ternary, TERNARY_COLOURS, 0.5)
        images = (image, _classes(image, truth_of(patch)), _classes(image, found), parts)
        panels += [
            Panel(picture, title, Size(*image.shape[:2]))
            for picture, title in zip(images, ("Image", "Ground truth", "Found", "Inside, boundary"), strict=True)
        ]
    return contact_sheet(
        panels, 4, _SAMPLE_PX, name="Validation patches", note=f"{mpp:g} µm per pixel", mpp=mpp, legend=_LEGEND,
        row_titles=[patch.name for patch in shown],
    )  # fmt: skip


def _classes(image: RgbImage, maps: NucleusMaps) -> RgbImage:
    semantic = np.where(maps.semantic < len(SEMANTIC_COLOURS), maps.semantic, 0)
    return draw_borders(tint(image, semantic, SEMANTIC_COLOURS, 0.45), maps.instances, _DARK)
