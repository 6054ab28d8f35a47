"""The report of a cell network's training: its layout, tables and figures; and its scores on the hold-out set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dermatome.registry.manifest import ManifestRow
from dermatome.registry.model_kinds import CELLS
from dermatome.registry.report import CURVES_FIGURE, SAMPLES_FIGURE, Picture, ReportLayout, ScoreTable
from dermatome.skin.cells.annotations import cell_manifest_rows, find_annotated
from dermatome.skin.cells.figures import CELL_CHARTS, cell_samples_figure
from dermatome.skin.cells.network import open_cells
from dermatome.skin.cells.scores import CellScores, mean_precision, score_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.storage.record import Scalar, write_table

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

IMAGE_SCORES_FILE = "image_scores.parquet"
PRECISION_FIGURE = "precision.png"
_SCORES = {"ap_50": "AP at IoU 0.5", "ap_75": "AP at IoU 0.75", "ap_90": "AP at IoU 0.9"}
CELL_REPORT = ReportLayout(
    title="Cell networks",
    introduction=(
        "A version is a network trained to find single cells. Its scores are average precision on images that it was "
        "not trained on: the share of cells found correctly among all that are annotated or found; 1 is perfect."
    ),
    kind=CELLS,
    main_score="ap_50",
    tables=(
        ScoreTable(
            "Average precision",
            "A cell counts as found if it overlaps the annotated one with at least this IoU.",
            _SCORES,
        ),
        ScoreTable(
            "Average precision before training",
            "Of the initial weights, on the same images.",
            {f"{name}_before": title for name, title in _SCORES.items()},
            folded=True,
        ),
    ),
    pictures=(
        Picture(SAMPLES_FIGURE, "Best and worst images", "The middle of each image. Look at the worst ones first."),
        Picture(PRECISION_FIGURE, "Average precision by IoU", "Before and after training."),
        Picture(CURVES_FIGURE, "Training curves", "Loss on training images and average precision on held-out images."),
    ),
    charts=CELL_CHARTS,
    details=(
        IMAGE_SCORES_FILE,
        {"image": "image", "slide": "slide", "cells": "annotated cells", "found": "found cells"}
        | {"ap_50": "AP at IoU 0.5", "ap_75": "AP at IoU 0.75", "ap_50_before": "AP at IoU 0.5 before"},
    ),
)


def image_scores(version: str, before: Sequence[CellScores], after: Sequence[CellScores]) -> pa.Table:
    """A row for each image: annotated cells, found cells, and average precision before and after training."""
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


def cell_rows(folders: Sequence[Path], declared_mpp: float) -> list[ManifestRow]:
    """Manifest rows of the annotated images in folders of the hold-out set; see :func:`find_annotated`."""
    return list(cell_manifest_rows(find_annotated(*folders, declared_mpp=declared_mpp), "hold_out"))


def score_cell_version(
    weights: Path,
    samples: Sequence[Path],
    folder: Path,
    *,
    version: str,
    compute: Compute,
    declared_mpp: float,
    cells: CellSettings,
) -> tuple[Mapping[str, Scalar], bytes]:
    """Average precision of a version on the hold-out set in ``samples``, with cells found as on slides.

    Writes `image_scores.parquet`; returns also a figure of samples, PNG. ``declared_mpp`` counts for images whose files
    state no scale.
    """
    loaded = open_cells(weights)
    cells = cells.changed(diameter_um=cells.diameter_um or loaded.card.diameter_um)
    images = find_annotated(*samples, declared_mpp=declared_mpp)
    network = loaded.network.to(compute.torch_device)
    scores = score_cells(images, network, loaded.card.diameter_px, cells, compute)
    write_table(folder / IMAGE_SCORES_FILE, image_scores(version, [], scores))
    return mean_precision(scores), cell_samples_figure(scores)
