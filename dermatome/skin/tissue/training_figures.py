"""Figures of a training's report: curves, reliability, and its best and worst tiles; PNG bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dermatome.classes import TissueClass
from dermatome.imaging.overlay import TISSUE_COLOURS, colour_labels, shrink_image
from dermatome.reports.panels import GREY, INK, new_figure, to_png
from dermatome.skin.tissue.evaluate import CALIBRATION_BINS, Calibration, TileResult

if TYPE_CHECKING:
    import pandas as pd

SAMPLES = 3
"""Best tiles, and worst tiles, that are shown."""
_WRONG = (213, 94, 0)
"""Vermilion of Okabe and Ito's palette, which no class has."""


@dataclass(frozen=True)
class Line:
    """One validation score of a history: its column, what it is called, and how it is drawn."""

    column: str
    label: str
    colour: str
    style: str


TISSUE_LINES = tuple(
    Line(
        f"iou_{tissue.label}",
        tissue.label,
        "#888888" if tissue is TissueClass.BACKGROUND else "#{:02x}{:02x}{:02x}".format(*tissue.colour),
        style,
    )
    for tissue, style in zip(TissueClass, ("-", "--", "-.", ":"), strict=True)
)
CELL_LINES = (
    Line("ap_50", "at IoU 0.5", "#0072b2", "-"),
    Line("ap_75", "at IoU 0.75", "#d55e00", "--"),
    Line("ap_90", "at IoU 0.9", "#888888", ":"),
)


def curves_figure(history: pd.DataFrame, lines: Sequence[Line] = TISSUE_LINES, score: str = "IoU") -> bytes:
    """Loss and validation scores by epoch, from the history of a training: PNG bytes."""
    figure = new_figure(9.5, 3.6)
    loss, right = figure.subplots(1, 2)
    epoch = history["epoch"]
    marker = "o" if len(history) < 25 else None
    loss.plot(epoch, history["train_loss"], color=INK, marker=marker, markersize=3, linewidth=1.4)
    loss.set_title("a  Training loss", loc="left", fontsize=10)
    loss.set_ylabel("Loss", fontsize=9)
    drawn = False
    for line in lines:
        if line.column not in history or history[line.column].isna().all():
            continue
        drawn = True
        values = history[line.column].astype(float)
        label = f"{line.label} {values.dropna().iloc[-1]:.3f}"
        style = {"color": line.colour, "marker": marker, "markersize": 3, "linewidth": 1.8, "label": label}
        right.plot(epoch, values, line.style, **style)
    right.set_title(f"b  Validation {score} (last value in the legend)", loc="left", fontsize=10)
    right.set_ylabel(score, fontsize=9)
    right.set_ylim(0, 1.02)
    if drawn:
        right.legend(fontsize=8, frameon=False, loc="best")
    else:
        right.text(0.5, 0.5, "nothing was held out", transform=right.transAxes, ha="center", va="center", color=GREY)
    for axes in (loss, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("Epoch", fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
    return to_png(figure)


def reliability_figure(calibration: Calibration) -> bytes:
    """Share of right pixels by confidence, and how many pixels there are of each."""
    figure = new_figure(4.6, 4.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    # A handful of pixels says nothing, and would draw the eye.
    there = calibration.pixels > 1e-4 * calibration.pixels.sum()
    counts = np.maximum(calibration.pixels, 1)
    right, confidence = calibration.right / counts, calibration.confidence / counts
    above.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="as sure as it is right")
    above.bar(edges[:-1][there], right[there], 1 / CALIBRATION_BINS, align="edge", color="#56b4e9", edgecolor="white")
    above.plot(confidence[there], right[there], "o-", color=INK, markersize=4, linewidth=1.2, label="this version")
    above.legend(fontsize=8, frameon=False, loc="upper left")
    above.set_ylim(0, 1.02)
    above.set_xlim(0, 1)
    above.set_ylabel("Share of pixels that are right", fontsize=9)
    error = "nothing validated" if calibration.error is None else f"calibration error {calibration.error:.3f}"
    above.set_title(f"Is it as sure as it is right?  ({error})", fontsize=10, loc="left", color=INK)
    below.bar(edges[:-1], calibration.pixels, 1 / CALIBRATION_BINS, align="edge", color="#bbbbbb", edgecolor="white")
    below.set_yscale("symlog", linthresh=1)
    below.set_ylabel("Pixels", fontsize=9)
    below.set_xlabel("Probability of the chosen class", fontsize=9)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return to_png(figure)


def samples_figure(tiles: Sequence[TileResult]) -> bytes | None:
    """The best and the worst tiles: image, truth, prediction, and what is wrong; ``None`` without tiles.

    Raises:
        BadImage: a tile cannot be read.
    """
    from matplotlib.patches import Patch

    shown = best_and_worst(tiles)
    if not shown:
        return None
    figure = new_figure(9.6, 2.35 * len(shown) + 0.7)
    for row, (title, found) in enumerate(shown):
        image = shrink_image(found.tile.read()[0], 320)
        wrong = np.where((found.truth != found.predicted)[..., None], np.array(_WRONG, np.uint8), np.uint8(245))
        wrong = wrong.astype(np.uint8)
        pictures = (image, *(colour_labels(mask, TISSUE_COLOURS) for mask in (found.truth, found.predicted)), wrong)
        for column, (picture, name) in enumerate(zip(pictures, ("Image", "Truth", "Predicted", "Wrong"), strict=True)):
            axes = figure.add_subplot(len(shown), 4, 4 * row + column + 1)
            axes.imshow(picture, interpolation="nearest" if column else "antialiased")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(color="#999999", linewidth=0.6)
            if row == 0:
                axes.set_title(name, fontsize=10, loc="left", color=INK)
            if column == 0:
                scored = "" if found.mean_iou is None else f", mean IoU {found.mean_iou:.2f}"
                name = found.tile.name if len(found.tile.name) <= 26 else f"…{found.tile.name[-25:]}"
                axes.set_ylabel(f"{title}\n{found.accuracy:.1%} right{scored}\n{name}", fontsize=8, color=INK)
    patches = [
        Patch(facecolor=np.array(c.colour) / 255, edgecolor="#666666", linewidth=0.6, label=c.label)
        for c in TissueClass
    ]
    patches.append(Patch(facecolor=np.array(_WRONG) / 255, label="wrong"))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=9, frameon=False)
    return to_png(figure)


def best_and_worst(tiles: Sequence[TileResult]) -> list[tuple[str, TileResult]]:
    """At most three best and three worst tiles by their share of right pixels, none of them twice, best first.

    That is what the pictures show. By mean IoU a tile would be worst where ten pixels of a class are predicted that it
    does not have.
    """
    scored = sorted(tiles, key=lambda t: (-t.accuracy, t.tile.name))
    count = min(SAMPLES, len(scored) // 2) if len(scored) > 1 else len(scored)
    best = [(f"Best {n}", tile) for n, tile in enumerate(scored[:count], 1)]
    worst = scored[count:][-count:]
    return best + [(f"Worst {len(worst) - n}", tile) for n, tile in enumerate(worst)]
