"""The report of a tissue network's training: its layout, tables and figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from dermatome.classes import TISSUE_LABELS
from dermatome.metrics.semantic import SCORE_NAMES, Confusion, class_scores, mean_score
from dermatome.registry.model_kinds import TISSUE
from dermatome.reports.training import CURVES_FIGURE, SAMPLES_FIGURE, Picture, ReportLayout, ScoreTable
from dermatome.skin.tissue.evaluate import BOUNDARY_UM, CALIBRATION_BINS, Evaluation
from dermatome.skin.tissue.figures import TISSUE_CHARTS, confusion_figure, reliability_figure, samples_figure

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
    return {
        "scores.parquet": pa.Table.from_pylist(score_rows(version, found)),
        CONFUSION_FILE: pa.Table.from_pylist(_pairs(found.confusion, version)),
        "calibration.parquet": _bins(version, found),
        "tile_scores.parquet": _tile_rows(version, found),
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
    scores = class_scores(found.confusion, TISSUE_LABELS)
    total = int(found.confusion.sum())
    borders = [value for value in found.boundary_f1 if value is not None]
    return {
        **{f"mean_{name}": mean_score(scores, name) for name in SCORE_NAMES},
        "mean_boundary_f1": sum(borders) / len(borders) if borders else None,
        "accuracy": float(found.confusion.trace() / total) if total else None,
        "calibration_error": found.calibration.error,
        **{f"{name}_{score.label}": getattr(score, name) for name in SCORE_NAMES for score in scores},
        **{f"boundary_f1_{label}": value for label, value in zip(TISSUE_LABELS, found.boundary_f1, strict=True)},
    }


def score_rows(version: str, found: Evaluation) -> list[dict[str, Any]]:
    """A row for each class: its pixels and scores."""
    scores = class_scores(found.confusion, TISSUE_LABELS)
    return [
        {"version": version} | score.to_json() | {"boundary_f1": border}
        for score, border in zip(scores, found.boundary_f1, strict=True)
    ]


def _pairs(confusion: Confusion, version: str) -> list[dict[str, Any]]:
    return [
        {"version": version, "truth": truth, "predicted": predicted, "pixels": int(confusion[i, j])}
        for i, truth in enumerate(TISSUE_LABELS)
        for j, predicted in enumerate(TISSUE_LABELS)
    ]


def _bins(version: str, found: Evaluation) -> pa.Table:
    bins, numbers = found.calibration, np.arange(CALIBRATION_BINS)
    pixels = np.maximum(bins.pixels, 1)
    columns = {
        "version": [version] * CALIBRATION_BINS,
        "from_probability": numbers / CALIBRATION_BINS,
        "to_probability": (numbers + 1) / CALIBRATION_BINS,
        "pixels": bins.pixels.astype(np.int64),
        "mean_confidence": pa.array(bins.confidence / pixels, mask=bins.pixels == 0),
        "share_right": pa.array(bins.right / pixels, mask=bins.pixels == 0),
    }
    return pa.table(columns)


def _tile_rows(version: str, found: Evaluation) -> pa.Table:
    texts = [(name, pa.string()) for name in ("version", "tile", "slide", "patient")]
    numbers = ("mean_iou", "accuracy", "confidence", *(f"iou_{label}" for label in TISSUE_LABELS))
    schema = pa.schema([*texts, *((name, pa.float64()) for name in numbers)])
    rows = [
        {
            "version": version,
            "tile": result.tile.name,
            "slide": result.tile.slide,
            "patient": result.tile.patient,
            "mean_iou": result.mean_iou,
            "accuracy": result.accuracy,
            "confidence": result.confidence,
            **{f"iou_{label}": value for label, value in zip(TISSUE_LABELS, result.iou, strict=True)},
        }
        for result in found.tiles
    ]
    return pa.Table.from_pylist(rows, schema=schema)
