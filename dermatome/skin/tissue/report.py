"""The report of a tissue network's training: its layout, tables and figures; and its scores on the hold-out set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dermatome.classes import TISSUE_LABELS
from dermatome.metrics.semantic import score_values
from dermatome.registry.manifest import ManifestRow
from dermatome.registry.model_kinds import TISSUE
from dermatome.registry.report import CURVES_FIGURE, SAMPLES_FIGURE, Picture, ReportLayout, ScoreTable
from dermatome.skin.tiles.crops import load_tiles, manifest_rows
from dermatome.skin.tissue.evaluate import BOUNDARY_UM, CALIBRATION_BINS, Evaluation, evaluate, tile_probabilities
from dermatome.skin.tissue.figures import TISSUE_CHARTS, confusion_figure, reliability_figure, samples_figure
from dermatome.skin.tissue.network import load_tissue_weights
from dermatome.storage.record import Scalar, write_table

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

CONFUSION_FILE = "confusion_matrix.parquet"
_MEASURES = (
    ("iou", "IoU", "Area on which annotation and network agree, divided by the area that either covers.", False),
    ("f1", "F1 (Dice)", "Overlap like IoU, counted more leniently.", True),
    ("precision", "Precision", "Share of the pixels predicted as this tissue that are this tissue.", True),
    ("recall", "Recall", "Share of the pixels of this tissue that were found.", True),
    ("mcc", "MCC", "Correlation of prediction and ground truth, fair also for rare tissues; 0 is guessing.", True),
    ("boundary_f1", "Boundary F1", f"Share of the borders within {BOUNDARY_UM:g} µm of the annotated ones.", True),
)
TISSUE_REPORT = ReportLayout(
    title="Tissue networks",
    introduction=(
        "A version is a network trained to divide skin images into four tissues: background, dermis, epidermis and "
        "keratin. Its scores compare its prediction with the annotation on tiles that it was not trained on; 1 is "
        "perfect."
    ),
    kind=TISSUE,
    main_score="mean_iou",
    tables=(
        *(
            ScoreTable(
                title, meaning, {f"{name}_{label}": label.capitalize() for label in TISSUE_LABELS},
                mean="mean of the tissues", folded=folded,
            )
            for name, title, meaning, folded in _MEASURES
        ),
        ScoreTable("Accuracy", "Share of all pixels that are correct.", {"accuracy": "Accuracy"}, folded=True),
        ScoreTable(
            "Calibration", "Mean difference between confidence and share of correct pixels; 0 is best.",
            {"calibration_error": "Calibration error"}, higher=False, folded=True,
        ),
    ),
    pictures=(
        Picture(SAMPLES_FIGURE, "Best and worst tiles", "Orange marks errors. Look at the worst tiles first."),
        Picture("confusion.png", "Confusion matrix", "Each row is a true tissue; correct pixels are on the diagonal."),
        Picture(
            "reliability.png", "Calibration", "On the dashed line, predictions of 80 % confidence are correct in 80 %."
        ),
        Picture(CURVES_FIGURE, "Training curves", "Loss on training tiles and IoU on validation tiles."),
    ),
    charts=TISSUE_CHARTS,
    details=(
        "tile_scores.parquet",
        {"tile": "tile", "slide": "slide", "mean_iou": "mean IoU", "accuracy": "accuracy", "confidence": "confidence"},
    ),
)  # fmt: skip


def tissue_tables(version: str, found: Evaluation) -> dict[str, pa.Table]:
    """The tables of the report by file name: scores by class, confusion, calibration, and scores by tile."""
    pairs = [
        {"version": version, "truth": truth, "predicted": predicted, "pixels": int(found.confusion[i, j])}
        for i, truth in enumerate(TISSUE_LABELS)
        for j, predicted in enumerate(TISSUE_LABELS)
    ]
    bins, numbers = found.calibration, np.arange(CALIBRATION_BINS)
    pixels, empty = np.maximum(bins.pixels, 1), bins.pixels == 0
    calibration = {
        "version": [version] * CALIBRATION_BINS,
        "from_probability": numbers / CALIBRATION_BINS,
        "to_probability": (numbers + 1) / CALIBRATION_BINS,
        "pixels": bins.pixels.astype(np.int64),
        "mean_confidence": pa.array(bins.confidence / pixels, mask=empty),
        "share_right": pa.array(bins.right / pixels, mask=empty),
    }
    texts, shares = ("version", "tile", "slide", "patient"), ("mean_iou", "accuracy", "confidence")
    ious = [f"iou_{label}" for label in TISSUE_LABELS]
    tiles = [
        {"version": version, "tile": one.tile.name, "slide": one.tile.slide, "patient": one.tile.patient}
        | {name: getattr(one, name) for name in shares}
        | dict(zip(ious, one.iou, strict=True))
        for one in found.tiles
    ]
    kinds = dict.fromkeys(texts, pa.string()) | dict.fromkeys((*shares, *ious), pa.float64())
    return {
        "scores.parquet": pa.Table.from_pylist(score_rows(version, found)),
        CONFUSION_FILE: pa.Table.from_pylist(pairs),
        "calibration.parquet": pa.table(calibration),
        "tile_scores.parquet": pa.Table.from_pylist(tiles, pa.schema(kinds)),
    }


def tissue_figures(found: Evaluation) -> dict[str, bytes | None]:
    """The figures of the report by file name; samples are None without validation tiles.

    Raises:
        BadImage: A tile that is shown cannot be read.
    """
    return {
        "confusion.png": confusion_figure(found.confusion),
        "reliability.png": reliability_figure(found.calibration),
        SAMPLES_FIGURE: samples_figure(found.tiles),
    }


def report_values(found: Evaluation) -> dict[str, Any]:
    """Scores for the record of a version: by class, their means, accuracy and calibration error."""
    total = int(found.confusion.sum())
    borders = [value for value in found.boundary_f1 if value is not None]
    return {
        **score_values(found.scores),
        "mean_boundary_f1": sum(borders) / len(borders) if borders else None,
        "accuracy": float(found.confusion.trace() / total) if total else None,
        "calibration_error": found.calibration.error,
        **{f"boundary_f1_{label}": value for label, value in zip(TISSUE_LABELS, found.boundary_f1, strict=True)},
    }


def score_rows(version: str, found: Evaluation) -> list[dict[str, Any]]:
    """A row for each class: its pixels and scores."""
    return [
        {"version": version} | asdict(score) | {"boundary_f1": border}
        for score, border in zip(found.scores, found.boundary_f1, strict=True)
    ]


def tissue_rows(folders: Sequence[Path]) -> list[ManifestRow]:
    """Manifest rows of the tiles in folders of the hold-out set."""
    return manifest_rows(load_tiles(*folders), "hold_out")


def score_tissue(
    weights: Path, samples: Sequence[Path], folder: Path, *, version: str, compute: Compute, mpp: float
) -> tuple[Mapping[str, Scalar], bytes | None]:
    """Scores of a version on the hold-out set in ``samples``, by class and in the mean.

    Writes `scores.parquet` by class; returns also a figure of samples, PNG. ``mpp`` counts for tiles that state none.
    """
    loaded = load_tissue_weights(weights)
    card, network = loaded.card, loaded.network.to(compute.torch_device)
    run = tile_probabilities(network, compute, card.mean, card.std, mpp, card.mpp, tile_px=card.tile_px, batch=8)
    found = evaluate(load_tiles(*samples), run, mpp)
    write_table(folder / "scores.parquet", pa.Table.from_pylist(score_rows(version, found)))
    return report_values(found), samples_figure(found.tiles)
