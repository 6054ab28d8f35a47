"""Figures of cell masks and of the training of cell networks, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.classes import LabelArray, Rgb, TissueClass
from dermatome.geometry import Box
from dermatome.imaging.overlay import (
    OUTLINE,
    borders,
    cell_colours,
    colour_labels,
    draw_borders,
    enlarge,
    fitting,
    sample_labels,
    tint_tissue,
)
from dermatome.imaging.stains import Stain, separate_stains
from dermatome.metrics.instances import match_instances
from dermatome.reports import figures as parts
from dermatome.skin.cells.scores import CURVE_IOUS, CellScores, mean_precision
from dermatome.skin.tissue.figures import TISSUE_LEGEND

if TYPE_CHECKING:
    from dermatome.classes import RgbImage
    from dermatome.skin.cells.segment import CellsResult
    from dermatome.slides.slide import Slide

CELL_CHARTS = (
    parts.LOSS_CHART,
    parts.Chart(
        "Validation AP",
        (
            parts.Line("ap_50", "at IoU 0.5", "#0072b2"),
            parts.Line("ap_75", "at IoU 0.75", "#d55e00", "--"),
            parts.Line("ap_90", "at IoU 0.9", "#888888", ":"),
        ),
    ),
)
_SAMPLE_UM = 100.0
_MATCHED, _FALSE, _MISSED = (0, 158, 115), (213, 94, 0), (0, 114, 178)
"""Bluish green, vermilion and blue of Okabe and Ito's palette."""
_MATCHES = (("matched at IoU 0.5", _MATCHED), ("annotated, not found", _MISSED), ("found, not annotated", _FALSE))


def cells_figure(slide: Slide, tissue_mask: LabelArray, result: CellsResult) -> parts.SlideFigure:
    """Shows original, tissue, crop, epidermis, hematoxylin, its equalised form, cells and overlay of one slide."""
    size = slide.size
    crop = result.crop or Box.whole(size)
    whole_px, crop_px = parts.longest_px(size), parts.longest_px(crop.size)
    whole = slide.overview(whole_px)
    tissue = tint_tissue(whole, sample_labels(tissue_mask, Box.whole(size), whole_px))
    pixels = slide.region(crop, fitting(crop.size, crop_px))
    inside = sample_labels(tissue_mask, crop, crop_px) == TissueClass.EPIDERMIS
    alone = np.where(inside[..., None], pixels, np.uint8(255))
    h = separate_stains(pixels, (Stain.HEMATOXYLIN,), result.background.i0)[..., 0]
    top = max(1e-3, float(np.percentile(h[inside], 99.5)) if inside.any() else 1.0)
    dark = (255 * (1 - np.clip(h / top, 0, 1)) + 0.5).astype(np.uint8)
    equalised = np.zeros_like(inside, np.uint8) if result.h_equalised is None else result.h_equalised
    labels = sample_labels(result.instances, crop, crop_px)
    cells = colour_labels(labels, cell_colours(int(labels.max(initial=0))))
    count = len(result.table)
    detail = parts.busiest_square(result.table, crop, round(parts.DETAIL_UM / slide.mpp))
    framed = (Box(
        detail.top_px - crop.top_px, detail.left_px - crop.left_px,
        detail.bottom_px - crop.top_px, detail.right_px - crop.left_px,
    ),)  # fmt: skip
    close = draw_borders(
        *enlarge(slide.pixels[detail.slices], result.instances[detail.slices], 2 * parts.SIDE_PX), OUTLINE, width_px=3
    )
    panels = (
        parts.Panel(whole, "a  Original", size, (crop,)),
        parts.Panel(tissue, "b  Tissue", size, (crop,)),
        parts.Panel(pixels, "c  Crop", crop.size),
        parts.Panel(alone, "d  Epidermis", crop.size),
        parts.Panel(dark, "e  Hematoxylin (dark = much)", crop.size, framed),
        parts.Panel(equalised, "f  H equalised", crop.size, framed),
        parts.Panel(cells, f"g  Cells ({count:,})", crop.size, framed),
        parts.Panel(close, "h  Overlay, framed part", detail.size),
    )
    mean = f"mean diameter {result.table['equivalent_diameter_um'].mean():.1f} µm" if count else "no cell found"
    facts = (f"{count:,} cells", mean)
    sheet = parts.contact_sheet(
        panels, 4, parts.SIDE_PX, name=slide.name, facts=facts, note=slide.mpp_note, mpp=slide.mpp, legend=TISSUE_LEGEND
    )
    return parts.SlideFigure(sheet, parts.preview_panel(parts.middle(panels[-1]), slide.name, facts, slide.mpp))


def precision_figure(before: Sequence[CellScores], after: Sequence[CellScores]) -> bytes:
    """Shows average precision by the IoU at which a cell counts as found, before and after training."""
    figure = parts.new_figure(5.2, 3.8)
    axes = figure.subplots()
    for name, scores, colour, style in (("before", before, parts.GREY, "o--"), ("after", after, "#0072b2", "o-")):
        if scores:
            values = [value for value in mean_precision(scores, CURVE_IOUS).values() if value is not None]
            axes.plot(CURVE_IOUS[: len(values)], values, style, color=colour, markersize=4, linewidth=1.6, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("IoU at which a cell counts as found", fontsize=9)
    axes.set_ylabel("Average precision", fontsize=9)
    images = "image" if len(after) == 1 else "images"
    axes.set_title(f"Cells found, {len(after)} {images} held out", fontsize=10, loc="left", color=parts.INK)
    axes.legend(fontsize=8, frameon=False)
    parts.plain_axes(axes)
    return parts.to_png(figure)


def cell_samples_figure(scores: Sequence[CellScores]) -> bytes:
    """Shows the middle of the best and worst images: image, annotated cells and found cells.

    Raises:
        BadImage: An image cannot be read.
    """
    panels, titles = [], []
    shown = parts.best_and_worst(scores, lambda score: (-(score.precision[0.5] or 0.0), score.image.name))
    for title, score in shown:
        precision = mean_precision([score])["ap_50"]
        scored = "" if precision is None else f"AP at IoU 0.5 {precision:.2f}  ·  "
        titles.append(f"{title}:  {scored}{score.image.slide}")
        slide, truth = score.image.read()
        row_px, column_px = slide.size.height_px // 2, slide.size.width_px // 2
        box = Box(row_px, column_px, row_px, column_px).expanded(round(_SAMPLE_UM / slide.mpp) // 2, slide.size)
        matches = match_instances(truth, score.found)
        pixels = slide.pixels[box.slices]
        images = [pixels] + [
            _outlined(pixels, labels[box.slices], np.isin(labels, matched)[box.slices], unmatched)
            for labels, matched, unmatched in (
                (truth, matches.truth_ids, _MISSED),
                (score.found, matches.predicted_ids, _FALSE),
            )
        ]
        # Images may differ in scale, so the sheet is laid out in µm.
        panels += [
            parts.Panel(image, name, box.size.scaled(slide.mpp))
            for image, name in zip(images, ("Image", "Annotated cells", "Found cells"), strict=True)
        ]
    return parts.contact_sheet(
        panels, 3, parts.SIDE_PX, name="Held-out images", mpp=1.0, legend=_MATCHES, row_titles=titles
    )


def _outlined(
    pixels: RgbImage, labels: npt.NDArray[np.int32], matched: npt.NDArray[np.bool_], unmatched: Rgb
) -> RgbImage:
    """Pixels, paler, with the outlines of cells: matched ones in green, others in the colour ``unmatched``."""
    large, cells = enlarge(pixels, labels, 2 * parts.SIDE_PX)
    times = cells.shape[0] // labels.shape[0]
    right = matched.repeat(times, axis=0).repeat(times, axis=1)
    edge = borders(cells)
    # Nuclei are dark: thin outlines are visible on a paler image.
    drawn = (large // 2 + 127).astype(np.uint8)
    for which, colour in ((edge & right, _MATCHED), (edge & ~right, unmatched)):
        drawn[cv2.dilate(which.astype(np.uint8), np.ones((4, 4), np.uint8)) > 0] = colour
    return drawn
