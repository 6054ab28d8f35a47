"""The figure of epidermal layers: the layers on the image, beside profiles by distance from the dermis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dermatome.classes import Rgb
from dermatome.imaging.overlay import draw_borders, fitting, sample_labels, tint
from dermatome.reports import figures as parts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from dermatome.classes import RgbImage
    from dermatome.skin.layers.measure import LayersResult
    from dermatome.slides.slide import Slide

DAB_COLOUR, H_COLOUR, RATIO_COLOUR = "#8a5a2b", "#3d4f9f", "#4d4d4d"
_PROFILES = (
    ("mean_dab_od", "DAB\n(optical density)", DAB_COLOUR),
    ("mean_h_od", "Hematoxylin\n(optical density)", H_COLOUR),
    ("dab_h_ratio", "DAB / hematoxylin", RATIO_COLOUR),
)
_DARK = (30, 30, 30)
_BORDERED_PX = 4
_CHART_PX = (900, 880)
"""Width and height of the profiles, px."""


def layers_figure(slide: Slide, result: LayersResult) -> parts.SlideFigure:
    """Shows the layers on the image, and profiles of DAB, hematoxylin and DAB/H by distance from the dermis.

    The preview shows the layers.
    """
    crop = result.shown.expanded(round(20 / slide.mpp), slide.size)
    span, count = crop.size, len(result.layers)
    aspect = span.height_px / span.width_px
    tall = aspect > 1.15
    # Panels are about as high as the profiles: side by side, or one above the other.
    side_px = round(min(840 / aspect, 560) if tall else min(404 / aspect, 960))
    most_px = parts.longest_px(span, side_px)
    pixels = slide.region(crop, fitting(span, most_px))
    labels = sample_labels(result.layer_map, crop, most_px)
    mapped = tint(pixels, labels, layer_colours(count), 0.72)
    # On a large slide, layers are thinner than border lines.
    if (result.layer_px or 0.0) * labels.shape[1] / span.width_px >= _BORDERED_PX:
        mapped = draw_borders(mapped, labels, _DARK)
    if count:
        score = f"H-score {result.h_score:.0f} of 300" if result.h_score is not None else "no H-score"
        pattern = f"{result.pattern.value} staining" if result.pattern else "no pattern"
        facts: tuple[str, ...] = (pattern, score, f"{count} layers of {result.layer_um:.1f} µm")
    else:
        facts = (result.outcome.value.replace("_", " "),)
    panels = (parts.Panel(pixels, "a  Image", span), parts.Panel(mapped, "b  Layers, 1 = basal", span))
    sheet = parts.contact_sheet(
        panels, 2 if tall else 1, side_px, name=slide.name, facts=facts, note=slide.mpp_note, mpp=slide.mpp,
        chart=_profiles(result),
    )  # fmt: skip
    return parts.SlideFigure(sheet, parts.preview_panel(panels[1], slide.name, facts, slide.mpp))


def layer_colours(count: int) -> list[Rgb]:
    """White for 0, then viridis from dark to light, whose brightness increases evenly for every reader."""
    from matplotlib import colormaps

    steps = colormaps["viridis"](np.linspace(0, 1, max(count, 2)))[:, :3]
    return [(255, 255, 255), *((int(r), int(g), int(b)) for r, g, b in np.rint(steps * 255))]


def _profiles(result: LayersResult) -> RgbImage:
    figure = parts.new_figure(_CHART_PX[0] / parts.DPI, _CHART_PX[1] / parts.DPI)
    three = figure.subplots(3, 1, sharex=True)
    if result.layers.empty:
        for axes in three:
            axes.set_axis_off()
        three[1].text(0.5, 0.5, result.message, ha="center", va="center", fontsize=11, color=parts.INK, wrap=True)
        return parts.to_pixels(figure)
    colours = layer_colours(len(result.layers))
    for letter, axes, (column, label, colour) in zip("cde", three, _PROFILES, strict=True):
        _profile(axes, result, column, label, colour, colours)
        axes.set_title(letter, loc="left", fontsize=10, color=parts.INK)
    three[0].legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, fontsize=8, frameon=False)
    three[-1].set_xlabel("Distance from the dermis (µm); numbers are layers", fontsize=9)
    return parts.to_pixels(figure)


def _profile(axes: Axes, result: LayersResult, column: str, label: str, colour: str, colours: list[Rgb]) -> None:
    layers, profile = result.layers, result.profile
    values = layers[column].astype(float).to_numpy(na_value=np.nan)
    start = layers["distance_from_um"].to_numpy(float)
    width = layers["distance_to_um"].to_numpy(float) - start
    fills = [parts.hex_colour(shade) for shade in colours[1 : len(layers) + 1]]
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
            axes.text(
                left + wide / 2, 0.01 * highest, f"{number}", ha="center", va="bottom", fontsize=7.5, color=parts.INK
            )
    if np.isnan(values).all():
        text = "no stains" if result.background.no_stains else "next to no hematoxylin"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=parts.GREY, fontsize=9)
    parts.plain_axes(axes)
