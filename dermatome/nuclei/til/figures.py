"""The figure of TIL scores: the density of lymphocytes on squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dermatome.geometry import Size
from dermatome.reports.figures import Panel, SlideFigure, new_figure, preview_panel, to_png

if TYPE_CHECKING:
    from dermatome.nuclei.til.score import TilScores

_NO_NUCLEI = "#eeeeee"
_PREVIEW_PX = 480


def til_figure(name: str, scores: TilScores, square_um: float, size: Size, mpp: float) -> SlideFigure:
    """Shows lymphocytes per mm² on squares, below the slide's scores."""
    from matplotlib import colormaps

    figure = new_figure(8.4, 6.4)
    axes = figure.subplots()
    shown = np.where(scores.nuclei > 0, scores.squares / scores.areas_mm2, np.nan)
    extent = (0.0, scores.squares.shape[1] * square_um, scores.squares.shape[0] * square_um, 0.0)
    highest = float(np.nanmax(shown, initial=0)) or 1.0
    colours = colormaps["viridis"].with_extremes(bad=_NO_NUCLEI)
    drawn = axes.imshow(shown, extent=extent, cmap=colours, vmin=0, vmax=highest, interpolation="nearest")
    axes.set_xlim(0, size.width_px * mpp)
    axes.set_ylim(size.height_px * mpp, 0)
    axes.set_xlabel("µm")
    axes.set_ylabel("µm")
    figure.colorbar(drawn, ax=axes, shrink=0.8, label=f"Lymphocytes per mm², squares of {square_um:g} µm")
    facts = []
    if scores.lymphocytes_per_mm2 is not None:
        facts.append(f"{scores.lymphocytes_per_mm2:,.0f} lymphocytes per mm²")
        if scores.immune_share is not None:
            facts.append(f"{scores.immune_share:.0%} of nuclei immune")
        if scores.near_epithelium_share is not None:
            facts.append(f"{scores.near_epithelium_share:.0%} of lymphocytes near epithelium")
    axes.set_title(f"{name}\n{'  ·  '.join(facts) or 'no score'}", fontsize=10, loc="left")
    # Squares at the lower and right edge are cut by the end of the slide.
    side_px = max(1, _PREVIEW_PX // shown.shape[1])
    pixels = colours(shown / highest, bytes=True)[..., :3].repeat(side_px, 0).repeat(side_px, 1)
    height, width = (max(1, round(side * mpp / square_um * side_px)) for side in (size.height_px, size.width_px))
    panel = Panel(pixels[:height, :width], "", size)
    low, high = ((int(r), int(g), int(b)) for r, g, b in colours([0.0, 1.0], bytes=True)[:, :3])
    ends = (
        [("no lymphocytes", low), (f"{highest:,.0f} per mm² in the densest square", high)] if np.any(shown > 0) else []
    )
    return SlideFigure(to_png(figure), preview_panel(panel, name, [*(facts or ["no score"]), *ends], mpp))
