"""The files of a cell network's report: tables as Parquet and CSV, figures as PNG, curves as TensorBoard events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dermatome.reports.figures import curves_figure
from dermatome.skin.cells.figures import CELL_CHARTS, cell_samples_figure, precision_figure
from dermatome.skin.cells.scores import CellScores, mean_precision
from dermatome.skin.tissue.training_report import EVENTS_FOLDER, HISTORY_FILE, SAMPLES_FIGURE, write_events
from dermatome.slides.preview import preview
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import write_table

if TYPE_CHECKING:
    import pandas as pd

IMAGE_SCORES_FILE = "image_scores.parquet"
PRECISION_FIGURE = "precision.png"


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
    write_atomic(folder / "image_scores.csv", scores.to_pandas().to_csv(index=False).encode())
    write_table(folder / HISTORY_FILE, pa.Table.from_pandas(history.assign(version=version), preserve_index=False))
    write_atomic(folder / "history.csv", history.to_csv(index=False).encode())
    curves = curves_figure(history, CELL_CHARTS)
    write_atomic(folder / "curves.png", curves)
    write_atomic(folder / PREVIEW_FILE, preview(curves))
    if after:
        write_atomic(folder / PRECISION_FIGURE, precision_figure(before, after))
        write_atomic(folder / SAMPLES_FIGURE, cell_samples_figure(after))
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
