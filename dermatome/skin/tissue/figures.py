"""Figures of tissue masks and of the training of tissue networks, as PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import TISSUE_LABELS, Rgb, RgbImage, TissueClass
from dermatome.geometry import Size
from dermatome.imaging.overlay import (
    TISSUE_COLOURS,
    colour_labels,
    fitting,
    shrink_image,
    shrink_labels,
    tint_tissue,
)
from dermatome.reports.figures import (
    GREY,
    INK,
    LOSS_CHART,
    SIDE_PX,
    Chart,
    Line,
    Panel,
    SlideFigure,
    best_and_worst,
    contact_sheet,
    hex_colour,
    longest_px,
    new_figure,
    plain_axes,
    preview_panel,
    to_png,
)
from dermatome.skin.tissue.evaluate import CALIBRATION_BINS, Calibration, TileResult
from dermatome.slides.resize import resize_labels
from dermatome.slides.slide import WHOLE_PX

if TYPE_CHECKING:
    from dermatome.skin.tissue.segment import TissueResult
    from dermatome.slides.slide import Slide

TISSUE_LEGEND: tuple[tuple[str, Rgb], ...] = tuple((tissue.label, tissue.colour) for tissue in TissueClass)
TISSUE_CHARTS = (
    LOSS_CHART,
    Chart(
        "Validation IoU",
        tuple(
            Line(
                f"iou_{tissue.label}",
                tissue.label,
                "#888888" if tissue is TissueClass.BACKGROUND else hex_colour(tissue.colour),
                style,
            )
            for tissue, style in zip(TissueClass, ("-", "--", "-.", ":"), strict=True)
        ),
    ),
)
IGNORED_COLOUR: Rgb = (190, 190, 190)
_WRONG = (213, 94, 0)
"""Vermilion of Okabe and Ito's palette, which is not the colour of a tissue class."""
_SAMPLE_PX = 320


def tissue_figure(slide: Slide, result: TissueResult) -> SlideFigure:
    """Shows the original, coarse mask, significant regions, crop, refined and corrected mask of one slide."""
    size, crop = slide.size, result.crop
    overview = shrink_image(result.overview, longest_px(size))
    shown = Size(*overview.shape[:2])
    # A coarse pass at full detail is as large as the slide.
    labels = shrink_labels(result.coarse_mask, longest_px(size))
    coarse = colour_labels(labels, TISSUE_COLOURS)
    kept = np.where(shrink_labels(result.significant, longest_px(size)), labels, 0)
    pale = (0.25 * coarse + 0.75 * 255).astype(np.uint8)
    pale[kept > 0] = coarse[kept > 0]
    refined = tint_tissue(overview, resize_labels(result.refined, shown))
    mask = np.concatenate([rows for _, rows in result.canvas.labels_at(shown)])
    corrected = tint_tissue(overview, mask)
    panels = (
        Panel(overview, "a  Original", size),
        Panel(coarse, "b  Coarse", size),
        Panel(pale, "c  Significant regions", size, (crop,)),
        Panel(_cut(slide, result), "d  Crop" if crop.size != size else "d  Crop (the whole slide)", crop.size),
        Panel(refined, "e  Refined", size),
        Panel(corrected, "f  Corrected", size),
    )
    shares = f"epidermis {result.epidermis_share:.1%} of the slide" if result.epidermis_share else "no epidermis"
    confidence = f"mean confidence {result.mean_confidence:.2f}"
    sheet = contact_sheet(
        panels, 3, SIDE_PX, name=slide.name, facts=(shares, confidence), note=slide.mpp_note, mpp=slide.mpp,
        legend=TISSUE_LEGEND,
    )  # fmt: skip
    classes = [(f"{tissue.label} {(mask == tissue).mean():.1%}", tissue.colour) for tissue in TissueClass]
    return SlideFigure(sheet, preview_panel(panels[-1], slide.name, [*classes, confidence], slide.mpp))


def _cut(slide: Slide, result: TissueResult) -> RgbImage:
    """The refined part, shrunk; for a large slide from its overview, as decoding it again takes long."""
    crop = result.crop
    if crop.size.area_px <= WHOLE_PX:
        return slide.region(crop, fitting(crop.size, longest_px(crop.size)))
    box = crop.rescaled(slide.size, Size(*result.overview.shape[:2]))
    return shrink_image(result.overview[box.slices], longest_px(crop.size))


def confusion_figure(matrix: npt.NDArray[Any]) -> bytes:
    """Shows a confusion matrix, ground truth in rows, as shares of each row with pixel counts."""
    labels = TISSUE_LABELS
    figure = new_figure(1.5 + 1.15 * len(labels), 1.3 + 0.95 * len(labels))
    axes = figure.subplots()
    counts = np.asarray(matrix, float)
    rows = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, rows, out=np.zeros_like(counts), where=rows > 0)
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.55 else INK
        text = f"{share:.1%}\n{counts[row, column]:,.0f}" if rows[row, 0] else "none"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(labels)), labels, fontsize=9)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_xlabel("Predicted", fontsize=10)
    axes.set_ylabel("Ground truth", fontsize=10)
    axes.set_title("Share of the true class, and pixels", fontsize=10, loc="left", color=INK)
    axes.tick_params(length=0)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    return to_png(figure)


def reliability_figure(calibration: Calibration) -> bytes:
    """Shows the share of correct pixels by confidence, and the number of pixels at each confidence."""
    figure = new_figure(4.6, 4.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    # Bins with few pixels are meaningless, but would attract attention.
    there = calibration.pixels > 1e-4 * calibration.pixels.sum()
    counts = np.maximum(calibration.pixels, 1)
    right, confidence = calibration.right / counts, calibration.confidence / counts
    above.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfectly calibrated")
    above.bar(edges[:-1][there], right[there], 1 / CALIBRATION_BINS, align="edge", color="#56b4e9", edgecolor="white")
    above.plot(confidence[there], right[there], "o-", color=INK, markersize=4, linewidth=1.2, label="this version")
    above.legend(fontsize=8, frameon=False, loc="upper left")
    above.set_ylim(0, 1.02)
    above.set_xlim(0, 1)
    above.set_ylabel("Share of correct pixels", fontsize=9)
    error = "nothing was held out" if calibration.error is None else f"calibration error {calibration.error:.3f}"
    above.set_title(f"Reliability  ({error})", fontsize=10, loc="left", color=INK)
    below.bar(edges[:-1], calibration.pixels, 1 / CALIBRATION_BINS, align="edge", color="#bbbbbb", edgecolor="white")
    below.set_yscale("symlog", linthresh=1)
    below.set_ylabel("Pixels", fontsize=9)
    below.set_xlabel("Probability of the predicted class", fontsize=9)
    for axes in (above, below):
        plain_axes(axes)
    return to_png(figure)


def samples_figure(tiles: Sequence[TileResult]) -> bytes | None:
    """Shows the best and worst tiles: image, ground truth, prediction and errors; None without tiles.

    Tiles are ranked by their share of correct pixels, which is what the panels show. By mean IoU, a tile with ten wrong
    pixels of an absent class would be ranked lowest.

    Raises:
        BadImage: A tile cannot be read.
    """
    shown = best_and_worst(tiles, lambda found: (-found.accuracy, found.tile.name))
    if not shown:
        return None
    panels, titles, colours = [], [], (*TISSUE_COLOURS, IGNORED_COLOUR)
    for title, found in shown:
        iou = "" if found.mean_iou is None else f"  ·  mean IoU {found.mean_iou:.2f}"
        titles.append(f"{title}:  {found.accuracy:.1%} correct{iou}  ·  {found.tile.name}")
        wrong = np.where((found.truth != found.predicted)[..., None], np.array(_WRONG, np.uint8), np.uint8(245))
        labels = [colour_labels(np.minimum(mask, len(TissueClass)), colours) for mask in (found.truth, found.predicted)]
        images = (shrink_image(found.tile.read()[0], _SAMPLE_PX), *labels, wrong.astype(np.uint8))
        panels += [
            Panel(image, name, Size(*image.shape[:2]))
            for image, name in zip(images, ("Image", "Ground truth", "Predicted", "Errors"), strict=True)
        ]
    return contact_sheet(
        panels, 4, _SAMPLE_PX, name="Validation tiles", row_titles=titles,
        legend=(*TISSUE_LEGEND, ("ignored", IGNORED_COLOUR), ("error", _WRONG)),
    )  # fmt: skip
