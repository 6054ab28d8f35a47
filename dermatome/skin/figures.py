"""The figures of a slide's stages and of training, as PNG bytes.

They follow the source system's panels, drawn so that a person can read them: every image panel has a scale bar in
microns and the heading says where the microns come from, classes keep one colour-blind-safe colour everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import TISSUE_LABELS, TissueClass
from dermatome.geometry import Box, Size
from dermatome.imaging.contact_sheet import Panel, draw_sheet, panel_size
from dermatome.imaging.overlay import (
    OUTLINE,
    TISSUE_COLOURS,
    cell_colours,
    colour_labels,
    draw_borders,
    enlarge,
    fitting,
    sample_labels,
    shrink_image,
    shrink_labels,
    tint,
    tint_tissue,
)
from dermatome.imaging.stains import Stain, separate_stains
from dermatome.inference.predictor import resize_labels
from dermatome.reports.panels import GREY, INK, LARGE_PANEL_PX, heading, mpp_note, new_figure, show, to_png
from dermatome.reports.panels import preview as preview
from dermatome.slides.slide import WHOLE_PX, RgbImage

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from dermatome.skin.cells.segment import CellsResult
    from dermatome.skin.layers.measure import LayersResult
    from dermatome.skin.tissue.segment import TissueResult
    from dermatome.slides.slide import Slide
    from dermatome.slides.tiled_tiff import TiledLabels

Mask = npt.NDArray[np.uint8]

DAB_COLOUR, H_COLOUR, RATIO_COLOUR = "#8a5a2b", "#3d4f9f", "#4d4d4d"
DARK = (30, 30, 30)
SIDE_PX = 440
"""Width of an image in a slide's sheet of panels."""
_BORDERED_PX = 4
DETAIL_UM = 120.0
"""Side of the part that is shown close."""


def tissue_figure(slide: Slide, result: TissueResult) -> bytes:
    """Original, first look, significant regions, crop, refined and corrected mask of one slide: PNG bytes."""
    size, crop = slide.size, result.crop
    overview = shrink_image(result.overview, _longest_px(size))
    shown = Size(*overview.shape[:2])
    labels = shrink_labels(result.coarse_mask, _longest_px(size))  # a look at full detail is as large as the slide
    coarse = colour_labels(labels, TISSUE_COLOURS)
    kept = np.where(shrink_labels(result.significant, _longest_px(size)), labels, 0)
    pale = (0.25 * coarse + 0.75 * 255).astype(np.uint8)
    pale[kept > 0] = coarse[kept > 0]
    refined = tint_tissue(overview, resize_labels(result.refined, shown))
    corrected = tint_tissue(overview, np.concatenate([rows for _, rows in result.canvas.labels_at(shown)]))
    panels = (
        Panel(overview, "a  Original", size),
        Panel(coarse, "b  Coarse", size),
        Panel(pale, "c  Significant regions", size, (crop,)),
        Panel(_cut(slide, result), "d  Crop" if crop.size != size else "d  Crop (the whole slide)", crop.size),
        Panel(refined, "e  Refined", size),
        Panel(corrected, "f  Corrected", size),
    )
    shares = f"epidermis {result.epidermis_share:.1%} of the slide" if result.epidermis_share else "no epidermis"
    facts = (shares, f"mean confidence {result.mean_confidence:.2f}")
    return draw_sheet(panels, 3, SIDE_PX, mpp=slide.mpp, name=slide.name, facts=facts, note=mpp_note(slide))


def _cut(slide: Slide, result: TissueResult) -> RgbImage:
    """The refined part of the slide, small; of a large slide out of its overview, as decoding it again takes long."""
    crop = result.crop
    if crop.size.area_px <= WHOLE_PX:
        return slide.region(crop, fitting(crop.size, _longest_px(crop.size)))
    box = crop.rescaled(slide.size, Size(*result.overview.shape[:2]))
    return shrink_image(result.overview[box.slices], _longest_px(crop.size))


def cells_figure(slide: Slide, tissue_mask: Mask | TiledLabels, result: CellsResult) -> bytes:
    """Original, tissue, crop, epidermis, H, H equalised, cells and overlay of one slide: PNG bytes."""
    size = slide.size
    crop = result.crop or Box.whole(size)
    whole_px, crop_px = _longest_px(size), _longest_px(crop.size)
    whole = slide.overview(whole_px)
    tissue = tint_tissue(whole, sample_labels(tissue_mask, Box.whole(size), whole_px))
    pixels = slide.region(crop, fitting(crop.size, crop_px))
    inside = sample_labels(tissue_mask, crop, crop_px) == TissueClass.EPIDERMIS
    alone = np.where(inside[..., None], pixels, np.uint8(255))
    h = separate_stains(pixels, (Stain.HEMATOXYLIN,))[..., 0]
    top = max(1e-3, float(np.percentile(h[inside], 99.5)) if inside.any() else 1.0)
    dark = (255 * (1 - np.clip(h / top, 0, 1)) + 0.5).astype(np.uint8)
    equalised = np.zeros_like(inside, np.uint8) if result.h_equalised is None else result.h_equalised
    labels = sample_labels(result.instances, crop, crop_px)
    cells = colour_labels(labels, cell_colours(int(labels.max(initial=0))))
    count = len(result.table)
    detail = busiest(result.table, crop, round(DETAIL_UM / slide.mpp))
    framed = (Box(
        detail.top_px - crop.top_px, detail.left_px - crop.left_px,
        detail.bottom_px - crop.top_px, detail.right_px - crop.left_px,
    ),)  # fmt: skip
    close = draw_borders(
        *enlarge(slide.pixels[detail.slices], result.instances[detail.slices], 2 * SIDE_PX), OUTLINE, width_px=3
    )
    panels = (
        Panel(whole, "a  Original", size, (crop,)),
        Panel(tissue, "b  Tissue", size, (crop,)),
        Panel(pixels, "c  Crop", crop.size),
        Panel(alone, "d  Epidermis", crop.size),
        Panel(dark, "e  Hematoxylin (dark = much)", crop.size, framed),
        Panel(equalised, "f  H equalised", crop.size, framed),
        Panel(cells, f"g  Cells ({count:,})", crop.size, framed),
        Panel(close, "h  Overlay, framed part", detail.size),
    )
    mean = f"mean diameter {result.table['equivalent_diameter_um'].mean():.1f} µm" if count else "no cell found"
    facts = (f"{count:,} cells", mean)
    return draw_sheet(panels, 4, SIDE_PX, mpp=slide.mpp, name=slide.name, facts=facts, note=mpp_note(slide))


def layers_figure(slide: Slide, result: LayersResult) -> bytes:
    """The layers on the image, and profiles of DAB, H and DAB/H by distance from the dermis: PNG bytes."""
    crop = result.shown.expanded(round(20 / slide.mpp), slide.size)
    span = crop.size
    aspect = min(2.6, max(0.3, span.height_px / span.width_px))
    tall = aspect > 1.15
    figure = new_figure(12.6, 6.6) if tall else new_figure(11.4, 7.2)
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1.0))
    images, charts = parts
    above, below = images.subplots(1, 2) if tall else images.subplots(2, 1)
    pixels = slide.region(crop, fitting(span, LARGE_PANEL_PX))
    labels = sample_labels(result.layer_map, crop, LARGE_PANEL_PX)
    show(above, pixels, "a  Image", span=span, mpp=slide.mpp)
    colours = layer_colours(len(result.layers))
    mapped = tint(pixels, labels, colours, 0.72)
    # Of a large slide, layers are thinner than the lines between them.
    if (result.layer_px or 0.0) * labels.shape[1] / span.width_px >= _BORDERED_PX:
        mapped = draw_borders(mapped, labels, DARK)
    show(below, mapped, "b  Layers, 1 = basal", span=span, mpp=slide.mpp)
    three = charts.subplots(3, 1, sharex=True)
    if result.layers.empty:
        for axes in three:
            axes.set_axis_off()
        three[1].text(0.5, 0.5, result.message, ha="center", va="center", fontsize=11, color=INK, wrap=True)
        heading(figure, slide, result.outcome.value.replace("_", " "))
        return to_png(figure)
    names = (
        ("mean_dab_od", "DAB\n(optical density)", DAB_COLOUR),
        ("mean_h_od", "Hematoxylin\n(optical density)", H_COLOUR),
        ("dab_h_ratio", "DAB / hematoxylin", RATIO_COLOUR),
    )
    for letter, axes, (column, label, colour) in zip("cde", three, names, strict=True):
        _profile(axes, result, column, label, colour, colours)
        axes.set_title(letter, loc="left", fontsize=10, color=INK)
    three[0].legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, fontsize=8, frameon=False)
    three[-1].set_xlabel(f"Distance from the dermis (µm); numbers are layers\n{mpp_note(slide)}", fontsize=9)
    pattern = f"{result.pattern.value} staining" if result.pattern else "no pattern"
    score = f"H-score {result.h_score:.0f} of 300" if result.h_score is not None else "no H-score"
    heading(figure, slide, pattern, score, f"{len(result.layers)} layers of {result.layer_um:.1f} µm")
    return to_png(figure)


def confusion_figure(matrix: npt.NDArray[Any], labels: Sequence[str] = TISSUE_LABELS) -> bytes:
    """A confusion matrix, truth in rows, as shares of each row with pixel counts: PNG bytes."""
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
    axes.set_ylabel("Truth", fontsize=10)
    axes.set_title("Share of the true class, and pixels", fontsize=10, loc="left", color=INK)
    axes.tick_params(length=0)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    return to_png(figure)


def busiest(cells: pd.DataFrame, crop: Box, side_px: int) -> Box:
    """The square of about ``side_px`` in the crop with the most cells, so that single outlines can be seen."""
    height_px, width_px = min(side_px, crop.size.height_px), min(side_px, crop.size.width_px)
    # Counted in quarters of the square, four of which each way make a place for it.
    steps = (max(1, height_px // 4), max(1, width_px // 4))
    places = tuple((side - part) // step + 1 for side, part, step in zip(
        (crop.size.height_px, crop.size.width_px), (height_px, width_px), steps, strict=True
    ))  # fmt: skip
    bins = np.zeros([place + 4 for place in places], np.int64)
    rows = ((cells["centroid_y_px"].to_numpy(float) - crop.top_px) // steps[0]).astype(int)
    columns = ((cells["centroid_x_px"].to_numpy(float) - crop.left_px) // steps[1]).astype(int)
    known = (rows >= 0) & (rows < bins.shape[0]) & (columns >= 0) & (columns < bins.shape[1])
    np.add.at(bins, (rows[known], columns[known]), 1)
    counts = sum(bins[y : y + places[0], x : x + places[1]] for y in range(4) for x in range(4))
    row, column = np.unravel_index(int(np.argmax(counts)), places)
    top, left = crop.top_px + int(row) * steps[0], crop.left_px + int(column) * steps[1]
    return Box(top, left, top + height_px, left + width_px)


def _longest_px(span: Size) -> int:
    """The longer side of an image of ``span`` as it is drawn: more of it need not be prepared."""
    return max(panel_size(span, SIDE_PX).height_px, panel_size(span, SIDE_PX).width_px)


def layer_colours(count: int) -> list[tuple[int, int, int]]:
    """White for 0, then from dark to light: viridis, which grows evenly brighter for every reader."""
    from matplotlib import colormaps

    steps = colormaps["viridis"](np.linspace(0, 1, max(count, 2)))[:, :3]
    return [(255, 255, 255), *((int(r), int(g), int(b)) for r, g, b in np.rint(steps * 255))]


def _profile(
    axes: Axes, result: LayersResult, column: str, label: str, colour: str, colours: list[tuple[int, int, int]]
) -> None:
    layers, profile = result.layers, result.profile
    values = layers[column].astype(float).to_numpy(na_value=np.nan)
    start = layers["distance_from_um"].to_numpy(float)
    width = layers["distance_to_um"].to_numpy(float) - start
    fills = [_hex(shade) for shade in colours[1 : len(layers) + 1]]
    axes.bar(
        start, values, width, align="edge", color=fills, alpha=0.55, edgecolor="white", linewidth=0.8,
        label="mean of the layer",
    )  # fmt: skip
    fine = profile[column].astype(float).to_numpy(na_value=np.nan)
    axes.plot(profile["distance_um"], fine, color=colour, linewidth=1.8, label="mean by distance")
    highest = np.nanmax([*values, *fine, 0.05])
    axes.set_ylim(0, 1.22 * highest)
    axes.set_xlim(0, float(layers["distance_to_um"].iloc[-1]))
    axes.set_ylabel(label, fontsize=9)
    step = max(1, len(layers) // 14)
    for number, left, wide in zip(layers["layer"], start, width, strict=True):
        if (number - 1) % step == 0:
            axes.text(left + wide / 2, 0.01 * highest, f"{number}", ha="center", va="bottom", fontsize=7.5, color=INK)
    if np.isnan(values).all():
        axes.text(0.5, 0.5, "next to no hematoxylin", transform=axes.transAxes, ha="center", color=GREY, fontsize=9)
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _hex(colour: tuple[int, int, int]) -> str:
    return f"#{bytes(colour).hex()}"
