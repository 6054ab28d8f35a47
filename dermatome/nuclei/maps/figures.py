"""The figures of a slide's nuclei and of its TIL, as PNG bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dermatome.classes import UNCLASSIFIED, NucleusClass, TernaryClass
from dermatome.geometry import Box, Size
from dermatome.imaging.contact_sheet import Panel, draw_sheet, panel_size
from dermatome.imaging.overlay import draw_borders, enlarge, tint
from dermatome.nuclei.maps.overlays import SEMANTIC_COLOURS, semantic_overlay, ternary_overlay
from dermatome.reports.panels import INK, mpp_note, new_figure, to_png
from dermatome.skin.figures import DETAIL_UM, SIDE_PX, busiest

if TYPE_CHECKING:
    import pandas as pd

    from dermatome.classes import Rgb
    from dermatome.nuclei.maps.segment import NucleiResult
    from dermatome.nuclei.til.score import TilScores
    from dermatome.slides.slide import Slide

_NUCLEI, _PARTS = list(NucleusClass)[1:], list(TernaryClass)[1:]
_LEGEND = (*((c.label, c.colour) for c in _NUCLEI), *((c.label, c.colour) for c in _PARTS))


def maps_figure(slide: Slide, found: NucleiResult) -> bytes:
    """Original, classes, inside and boundary, and a part close with its outlines: PNG bytes."""
    size = slide.size
    side_px = max(panel_size(size, SIDE_PX).height_px, panel_size(size, SIDE_PX).width_px)
    detail = busiest(found.table, Box.whole(size), round(DETAIL_UM / slide.mpp))
    pixels, instances = enlarge(slide.pixels[detail.slices], found.instances[detail.slices], 2 * SIDE_PX)
    _, semantic = enlarge(slide.pixels[detail.slices], found.semantic[detail.slices], 2 * SIDE_PX)
    close = draw_borders(tint(pixels, semantic, SEMANTIC_COLOURS, 0.3), instances, width_px=3)
    classes = semantic_overlay(slide, found, max_side_px=side_px, outlines=False)
    panels = (
        Panel(slide.overview(side_px), "a  Original", size, (detail,)),
        Panel(classes, "b  Classes", size, (detail,)),
        Panel(ternary_overlay(slide, found, max_side_px=side_px), "c  Inside and boundary", size, (detail,)),
        Panel(close, "d  Nuclei, framed part", detail.size),
    )
    counts = found.table["class"].value_counts()
    facts = [f"{len(found.table):,} nuclei"]
    labels = [*(c.label for c in _NUCLEI), UNCLASSIFIED]
    facts += [f"{counts[label]:,} {label}" for label in labels if label in counts]
    return draw_sheet(
        panels, 4, SIDE_PX, mpp=slide.mpp, name=slide.name, facts=facts, note=mpp_note(slide), classes=_LEGEND
    )


def til_figure(name: str, scores: TilScores, square_um: float, size: Size, mpp: float) -> bytes:
    """The map of lymphocytes on squares, with the scores over it: PNG bytes."""
    figure = new_figure(8.4, 6.4)
    axes = figure.subplots()
    shown = np.where(scores.nuclei > 0, scores.squares / scores.areas_mm2, np.nan)
    extent = (0.0, scores.squares.shape[1] * square_um, scores.squares.shape[0] * square_um, 0.0)
    drawn = axes.imshow(shown, extent=extent, cmap="viridis", vmin=0, interpolation="nearest")
    axes.set_facecolor("#eeeeee")
    axes.set_xlim(0, size.width_px * mpp)
    axes.set_ylim(size.height_px * mpp, 0)
    axes.set_xlabel("µm")
    axes.set_ylabel("µm")
    figure.colorbar(drawn, ax=axes, shrink=0.8, label=f"Lymphocytes per mm², squares of {square_um:g} µm")
    parts = (
        [
            (f"{scores.lymphocytes_per_mm2:,.0f} lymphocytes per mm²", scores.lymphocytes_per_mm2),
            (f"{scores.immune_share or 0:.0%} of nuclei immune", scores.immune_share),
            (f"{scores.near_epithelium_share or 0:.0%} of lymphocytes near epithelium", scores.near_epithelium_share),
        ]
        if scores.lymphocytes_per_mm2 is not None
        else []
    )
    said = "  ·  ".join(text for text, value in parts if value is not None) or "no tissue"
    axes.set_title(f"{name}\n{said}", fontsize=10, loc="left")
    return to_png(figure)


def training_figure(history: pd.DataFrame) -> bytes:
    """Loss, the score by which the best epoch is kept, and Dice of the classes, by epoch: PNG bytes."""
    figure = new_figure(12.6, 3.8)
    loss, parts, classes = figure.subplots(1, 3)
    epoch = history["epoch"]
    marker = "o" if len(history) < 25 else None
    style: dict[str, Any] = {"marker": marker, "markersize": 3, "linewidth": 1.5}
    loss.plot(epoch, history["train_loss"], color=INK, **style)
    loss.set_title("a  Training loss", loc="left", fontsize=10)
    drawn = [("score", "score", INK), *((f"ternary_dice_{c.label}", c.label, _hex(c.colour)) for c in _PARTS)]
    shown = [(f"dice_{c.label}", c.label, _hex(c.colour)) for c in _NUCLEI]
    for axes, columns, title in ((parts, drawn, "b  Dice of the ternary map"), (classes, shown, "c  Dice of classes")):
        for column, label, colour in columns:
            values = history[column].astype(float)
            if values.notna().any():
                axes.plot(epoch, values, color=colour, label=f"{label} {values.max():.3f}", **style)
        axes.set_ylim(0, 1.02)
        axes.set_title(f"{title} (best in the legend)", loc="left", fontsize=10)
        if axes.lines:
            axes.legend(fontsize=8, frameon=True, facecolor="#dddddd", loc="lower right")
    for axes in (loss, parts, classes):
        axes.set_xlabel("Epoch", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return to_png(figure)


def _hex(colour: Rgb) -> str:
    return f"#{bytes(colour).hex()}"
