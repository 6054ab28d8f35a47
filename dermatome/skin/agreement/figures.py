"""The figure of the agreement: measures by annotated level with thresholds, and read levels by annotated level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dermatome.reports.figures import GREY, INK, new_figure, plain_axes, to_png, to_svg
from dermatome.skin.agreement.compare import TARGETS, Agreement, Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINT, _THRESHOLD = "#0072b2", "#d55e00"
_DRAWN_AS_SHAPES = 2000
_TITLES = {
    "intensity": "Mean DAB (OD)",
    "quantity": "Share of pixels with DAB",
    "location": "DAB in cells / in the epidermis",
}
_SHORT = {"cytoplasmic/membranous": "cytopl./\nmembr.", "cytoplasmic/membranous,nuclear": "both"}


def agreement_figure(found: Agreement) -> tuple[bytes, bytes]:
    """Draws for each target the measures by annotated level, and the confusion matrix.

    Returns:
        PNG bytes and SVG bytes.
    """
    figure = new_figure(12, 7.6)
    panels = figure.subplots(2, len(TARGETS), height_ratios=(1.2, 1))
    for target, (measures, matrix) in zip(TARGETS, panels.T, strict=True):
        _measures(measures, found, target)
        _matrix(matrix, found, target)
    return to_png(figure), to_svg(figure)


def _names(target: Target) -> list[str]:
    return [_SHORT.get(name, name) for name in target.levels]


def _measures(axes: Axes, found: Agreement, target: Target) -> None:
    rows = found.rows[found.rows["target"] == target.name]
    plain_axes(axes)
    title = f"{target.name.capitalize()}, n = {len(rows)}"
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel("Annotated by HPA", fontsize=9)
    axes.set_ylabel(_TITLES[target.name], fontsize=9)
    axes.set_xticks(range(len(target.levels)), _names(target))
    axes.set_xlim(-0.5, len(target.levels) - 0.5)
    # Spread sideways, so that points of one level do not hide each other.
    place = rows["annotated_level"] + (np.arange(len(rows)) * 0.618 % 1 - 0.5) * 0.6
    many = len(rows) > _DRAWN_AS_SHAPES  # drawn as pixels in the SVG too
    axes.plot(place, rows["measure"], "o", color=_POINT, markersize=3.5, alpha=0.6, markeredgewidth=0, rasterized=many)
    cuts = found.thresholds
    for cut in cuts[cuts["target"] == target.name]["begins_at"]:
        axes.axhline(cut, color=_THRESHOLD, linewidth=1, linestyle="--")


def _matrix(axes: Axes, found: Agreement, target: Target) -> None:
    levels = len(target.levels)
    axes.set_title("Pairs by level; shaded by share of the row", fontsize=9, loc="left", color=INK)
    cells = found.confusion[found.confusion["target"] == target.name]
    if cells.empty:
        axes.set_title("No level could be read: too few antibodies", fontsize=9, loc="left", color=GREY)
        axes.set_axis_off()
        return
    counts = cells["pairs"].to_numpy(int).reshape(levels, levels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(counts.shape):
        dark = shares[row, column] > 0.5
        axes.text(
            column, row, str(counts[row, column]), ha="center", va="center", fontsize=9,
            color="white" if dark else INK if counts[row, column] else GREY,
        )  # fmt: skip
    axes.set_xticks(range(levels), _names(target), fontsize=8)
    axes.set_yticks(range(levels), _names(target), fontsize=8)
    axes.set_xlabel("Read from the cores", fontsize=9)
    axes.set_ylabel("Annotated by HPA", fontsize=9)
