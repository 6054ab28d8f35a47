"""The files of a cell network's report: tables as Parquet and CSV, figures as PNG, curves as TensorBoard events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dermatome.geometry import Box
from dermatome.imaging.overlay import borders, enlarge
from dermatome.metrics.instances import match_instances
from dermatome.reports.panels import GREY, INK, new_figure, preview, show, to_png
from dermatome.skin.cells.scores import CURVE_IOUS, CellScores, mean_precision
from dermatome.skin.tissue.training_figures import CELL_LINES, SAMPLES, curves_figure
from dermatome.skin.tissue.training_report import EVENTS_FOLDER, HISTORY_FILE, SAMPLES_FIGURE, write_events
from dermatome.storage.files import write_whole
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import write_table

if TYPE_CHECKING:
    import pandas as pd

IMAGE_SCORES_FILE = "image_scores.parquet"
PRECISION_FIGURE = "precision.png"
_DETAIL_UM = 100.0
_RIGHT, _WRONG, _MISSED = (0, 158, 115), (213, 94, 0), (0, 114, 178)
"""Okabe and Ito's bluish green, vermilion and blue."""


def write_cell_report(
    folder: Path, version: str, history: pd.DataFrame, before: Sequence[CellScores], after: Sequence[CellScores]
) -> None:
    """Writes the report of one version.

    Files: `history.parquet` and `.csv`, `image_scores.parquet` and `.csv`, `curves.png`, `precision.png` and
    `samples.png` (where images were held out), and TensorBoard's event file in `tensorboard/`.

    Args:
        folder: for the files.
        version: its name.
        history: a row for each epoch.
        before: scores of the weights it started from; empty from scratch.
        after: its own, of the same images.

    Raises:
        BadImage: an image that is shown cannot be read.
        StorageFailed: the disk is full or not writable.
    """
    scores = image_scores(version, before, after)
    write_table(folder / IMAGE_SCORES_FILE, scores)
    write_whole(folder / "image_scores.csv", scores.to_pandas().to_csv(index=False).encode())
    write_table(folder / HISTORY_FILE, pa.Table.from_pandas(history.assign(version=version), preserve_index=False))
    write_whole(folder / "history.csv", history.to_csv(index=False).encode())
    curves = curves_figure(history, CELL_LINES, "AP")
    write_whole(folder / "curves.png", curves)
    write_whole(folder / PREVIEW_FILE, preview(curves))
    if after:
        write_whole(folder / PRECISION_FIGURE, precision_figure({"before": before, "after": after}))
        write_whole(folder / SAMPLES_FIGURE, cell_samples_figure(after))
    write_events(folder / EVENTS_FOLDER, history)


def image_scores(version: str, before: Sequence[CellScores], after: Sequence[CellScores]) -> pa.Table:
    """A row for each image: its cells, those found, and average precision before and after."""
    texts = [(name, pa.string()) for name in ("version", "image", "slide", "patient")]
    counts = [(name, pa.int64()) for name in ("cells", "found")]
    numbers = [(f"{name}{when}", pa.float64()) for when in ("", "_before") for name in ("ap_50", "ap_75", "ap_90")]
    rows = []
    for place, score in enumerate(after):
        row: dict[str, Any] = {
            "version": version,
            "image": score.image.name,
            "slide": score.image.slide,
            "patient": score.image.patient,
            "cells": score.truth_count,
            "found": score.found_count,
            **mean_precision([score]),
        }
        if before:
            row |= {f"{name}_before": value for name, value in mean_precision([before[place]]).items()}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=pa.schema([*texts, *counts, *numbers]))


def precision_figure(runs: dict[str, Sequence[CellScores]]) -> bytes:
    """Average precision by the IoU from which a cell counts as found, a line for each run: PNG bytes."""
    figure = new_figure(5.2, 3.8)
    axes = figure.subplots()
    for (name, scores), (colour, style) in zip(runs.items(), ((GREY, "o--"), ("#0072b2", "o-")), strict=True):
        if scores:
            values = [value for value in mean_precision(scores, CURVE_IOUS).values() if value is not None]
            axes.plot(CURVE_IOUS[: len(values)], values, style, color=colour, markersize=4, linewidth=1.6, label=name)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("A cell counts as found from this IoU", fontsize=9)
    axes.set_ylabel("Average precision", fontsize=9)
    count = len(runs["after"])
    images = "image" if count == 1 else "images"
    axes.set_title(f"Cells found, {count} {images} held out", fontsize=10, loc="left", color=INK)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    return to_png(figure)


def cell_samples_figure(scores: Sequence[CellScores]) -> bytes:
    """The middle of the best and the worst images: as it is, annotated cells, and cells found: PNG bytes.

    Raises:
        BadImage: an image cannot be read.
    """
    from matplotlib.patches import Patch

    shown = _best_and_worst(scores)
    figure = new_figure(10.2, 3.55 * len(shown) + 0.5)
    titles = ("Image", "Annotated cells", "Cells found")
    for row, (title, score) in enumerate(shown):
        slide, truth = score.image.read()
        side = round(_DETAIL_UM / slide.mpp)
        row_px, column_px = slide.size.height_px // 2, slide.size.width_px // 2
        box = Box(row_px, column_px, row_px, column_px).expanded(side // 2, slide.size)
        matches = match_instances(truth, score.found)
        pixels = slide.pixels[box.slices]
        outlined = [
            _outlined(pixels, labels[box.slices], np.isin(labels, ids)[box.slices], other)
            for labels, ids, other in (
                (truth, matches.truth_ids, _MISSED),
                (score.found, matches.predicted_ids, _WRONG),
            )
        ]
        for column, picture in enumerate((pixels, *outlined)):
            axes = figure.add_subplot(len(shown), 3, 3 * row + column + 1)
            show(axes, picture, titles[column] if row == 0 else "", span=box.size, mpp=None if column else slide.mpp)
            if column == 0:
                precision = mean_precision([score])["ap_50"]
                scored = "" if precision is None else f"AP at IoU 0.5: {precision:.2f}"
                axes.set_ylabel(f"{title}  {scored}\n{score.image.slide[-28:]}", fontsize=8, color=INK)
    colours = ((_RIGHT, "matched at IoU 0.5"), (_MISSED, "annotated, no match"), (_WRONG, "found, no match"))
    patches = [Patch(facecolor=np.array(colour) / 255, label=label) for colour, label in colours]
    figure.legend(handles=patches, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return to_png(figure)


def _outlined(
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    matched: npt.NDArray[np.bool_],
    other: tuple[int, int, int],
) -> npt.NDArray[np.uint8]:
    import cv2

    large, cells = enlarge(pixels, labels, 1000)
    times = cells.shape[0] // labels.shape[0]
    right = matched.repeat(times, axis=0).repeat(times, axis=1)
    edge = borders(cells)
    # Nuclei are dark: on a paler image, outlines of a few pixels are seen.
    drawn = (large // 2 + 127).astype(np.uint8)
    for which, colour in ((edge & right, _RIGHT), (edge & ~right, other)):
        drawn[cv2.dilate(which.astype(np.uint8), np.ones((4, 4), np.uint8)) > 0] = colour
    return drawn


def _best_and_worst(scores: Sequence[CellScores]) -> list[tuple[str, CellScores]]:
    """At most three best and three worst images by average precision at IoU 0.5, none twice, best first."""
    ranked = sorted(scores, key=lambda s: (-(s.precision[0.5] or 0.0), s.image.name))
    count = min(SAMPLES, len(ranked) // 2) if len(ranked) > 1 else len(ranked)
    worst = ranked[count:][-count:]
    best = [(f"Best {n}", score) for n, score in enumerate(ranked[:count], 1)]
    return best + [(f"Worst {len(worst) - n}", score) for n, score in enumerate(worst)]
