"""The files of a training's report: tables as Parquet and CSV, figures as PNG, curves as TensorBoard events."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dermatome.classes import TISSUE_LABELS
from dermatome.metrics.semantic import SCORE_NAMES, Confusion, class_scores, mean_score
from dermatome.reports.figures import curves_figure
from dermatome.skin.tissue.evaluate import CALIBRATION_BINS, Evaluation
from dermatome.skin.tissue.figures import TISSUE_CHARTS, confusion_figure, reliability_figure, samples_figure
from dermatome.slides.preview import preview
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import PREVIEW_FILE
from dermatome.storage.record import write_table

if TYPE_CHECKING:
    import pandas as pd

SCORES_FILE = "scores.parquet"
CONFUSION_FILE = "confusion_matrix.parquet"
CALIBRATION_FILE = "calibration.parquet"
TILE_SCORES_FILE = "tile_scores.parquet"
HISTORY_FILE = "history.parquet"
SAMPLES_FIGURE = "samples.png"
EVENTS_FOLDER = "tensorboard"


def write_report(folder: Path, version: str, history: pd.DataFrame, found: Evaluation) -> None:
    """Writes the report of one version.

    Files: `history.parquet` and `.csv`, `scores.parquet` and `classification_report.csv`, `confusion_matrix.parquet`,
    `calibration.parquet`, `tile_scores.parquet`, `curves.png`, `confusion.png`, `reliability.png`, `samples.png` (where
    tiles were validated), and TensorBoard's event file in `tensorboard/`.

    Args:
        folder: for the files.
        version: its name.
        history: a row for each epoch.
        found: what it does on the validation tiles.

    Raises:
        BadImage: a tile that is shown cannot be read.
        StorageFailed: the disk is full or not writable.
    """
    rows = {
        HISTORY_FILE: pa.Table.from_pandas(history.assign(version=version), preserve_index=False),
        SCORES_FILE: pa.Table.from_pylist(score_rows(version, found)),
        CONFUSION_FILE: pa.Table.from_pylist(_pairs(found.confusion, version)),
        CALIBRATION_FILE: pa.Table.from_pylist(_bins(version, found)),
        TILE_SCORES_FILE: _tile_rows(version, found),
    }
    for name, table in rows.items():
        write_table(folder / name, table)
    write_atomic(folder / "history.csv", history.to_csv(index=False).encode())
    write_atomic(folder / "classification_report.csv", _report_csv(found))
    write_atomic(folder / "confusion.png", confusion_figure(found.confusion))
    write_atomic(folder / "reliability.png", reliability_figure(found.calibration))
    curves = curves_figure(history, TISSUE_CHARTS)
    write_atomic(folder / "curves.png", curves)
    write_atomic(folder / PREVIEW_FILE, preview(curves))
    if samples := samples_figure(found.tiles):
        write_atomic(folder / SAMPLES_FIGURE, samples)
    write_events(folder / EVENTS_FOLDER, history)


def report_values(found: Evaluation) -> dict[str, Any]:
    """The scores of a version's record: by class, their means, accuracy and calibration error."""
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


def _bins(version: str, found: Evaluation) -> list[dict[str, Any]]:
    bins = found.calibration
    return [
        {
            "version": version,
            "from_probability": number / CALIBRATION_BINS,
            "to_probability": (number + 1) / CALIBRATION_BINS,
            "pixels": int(bins.pixels[number]),
            "mean_confidence": float(bins.confidence[number] / bins.pixels[number]) if bins.pixels[number] else None,
            "share_right": float(bins.right[number] / bins.pixels[number]) if bins.pixels[number] else None,
        }
        for number in range(CALIBRATION_BINS)
    ]


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


def _report_csv(found: Evaluation) -> bytes:
    """One line a class, and their mean, as spreadsheets read it."""
    import pandas as pd

    rows = score_rows("", found)
    names = [*SCORE_NAMES, "boundary_f1"]
    mean: dict[str, Any] = {"label": "mean"}
    for name in names:
        known = [row[name] for row in rows if row[name] is not None]
        mean[name] = sum(known) / len(known) if known else None
    counts = ["truth_px", "predicted_px", "tp_px", "fp_px", "fn_px", "tn_px"]
    table = pd.DataFrame([*rows, mean])[["label", *counts, *names]]
    table[counts] = table[counts].astype("Int64")
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, float_format="%.6f")
    return buffer.getvalue().encode()


def write_events(folder: Path, history: pd.DataFrame) -> None:
    """Writes TensorBoard's event file into ``folder``: each column of the history by step."""
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for row in history.to_dict("records"):
            for name, value in row.items():
                if name not in ("epoch", "step") and value is not None and value == value:
                    group = "validation" if str(name).startswith(("iou_", "mean_", "ap_")) else "training"
                    writer.add_scalar(f"{group}/{name}", float(value), int(row["step"]))
