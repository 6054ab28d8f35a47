"""The figure of TIL scores: the density of lymphocytes on squares."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dermatome.geometry import Size
from dermatome.reports.figures import new_figure, to_png

if TYPE_CHECKING:
    from dermatome.nuclei.til.score import TilScores


def til_figure(name: str, scores: TilScores, square_um: float, size: Size, mpp: float) -> bytes:
    """Shows lymphocytes per mm² on squares under the slide's scores.

    Args:
        name: name of the slide.
        scores: scores of the slide.
        square_um: side of a square, µm.
        size: size of the slide.
        mpp: microns per pixel of the slide.

    Returns:
        PNG bytes.
    """
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
    facts = []
    if scores.lymphocytes_per_mm2 is not None:
        facts.append(f"{scores.lymphocytes_per_mm2:,.0f} lymphocytes per mm²")
        if scores.immune_share is not None:
            facts.append(f"{scores.immune_share:.0%} of nuclei immune")
        if scores.near_epithelium_share is not None:
            facts.append(f"{scores.near_epithelium_share:.0%} of lymphocytes near epithelium")
    axes.set_title(f"{name}\n{'  ·  '.join(facts) or 'no score'}", fontsize=10, loc="left")
    return to_png(figure)
