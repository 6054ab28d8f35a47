"""The tables of training: versions, their reports, searches, the hold-out set and the champion."""

from __future__ import annotations

from dermatome.classes import TISSUE_LABELS
from dermatome.storage.layout import RECORD_FILE
from dermatome.warehouse.table import Table

_TEXT = "varchar"
_SCORES = ("iou", "f1", "precision", "recall", "mcc", "boundary_f1")

TRAINING_TABLES: dict[str, Table] = {
    "training": Table(
        "tissue_weights",
        RECORD_FILE,
        {
            "weights_sha256": _TEXT,
            "parent": _TEXT,
            "parent_sha256": _TEXT,
            "encoder": _TEXT,
            "initial_weights": _TEXT,
            "loss": _TEXT,
            "seed": "bigint",
            "epochs": "integer",
            "steps": "integer",
            "mpp": "double",
            "coarse_mpp": "double",
            "tiles_sha256": _TEXT,
            "manifest_sha256": _TEXT,
            "validation_sha256": _TEXT,
            "one_slide_only": "boolean",
            "validation": _TEXT,
            "device": _TEXT,
            "precision": _TEXT,
            "resumed": "boolean",
            **{f"mean_{score}": "double" for score in _SCORES},
            "accuracy": "double",
            "calibration_error": "double",
            **{f"{score}_{label}": "double" for score in _SCORES for label in TISSUE_LABELS},
        },
        key="version",
    ),
    "training_classes": Table(
        "tissue_weights",
        "scores.parquet",
        {
            "version": _TEXT,
            "label": _TEXT,
            "outcome": _TEXT,
            "truth_px": "bigint",
            **{f"{name}_px": "bigint" for name in ("predicted", "tp", "fp", "fn", "tn")},
            **dict.fromkeys(_SCORES, "double"),
        },
    ),
    "training_confusion": Table(
        "tissue_weights",
        "confusion_matrix.parquet",
        {"version": _TEXT, "truth": _TEXT, "predicted": _TEXT, "pixels": "bigint"},
    ),
    "training_calibration": Table(
        "tissue_weights",
        "calibration.parquet",
        {
            "version": _TEXT,
            "from_probability": "double",
            "to_probability": "double",
            "pixels": "bigint",
            "mean_confidence": "double",
            "share_right": "double",
        },
    ),
    "training_tiles": Table(
        "tissue_weights",
        "tile_scores.parquet",
        {
            **dict.fromkeys(("version", "tile", "slide", "patient"), _TEXT),
            **dict.fromkeys(("mean_iou", "accuracy", "confidence"), "double"),
            **{f"iou_{label}": "double" for label in TISSUE_LABELS},
        },
    ),
    "training_epochs": Table(
        "tissue_weights",
        "history.parquet",
        {
            "version": _TEXT,
            "epoch": "integer",
            "step": "integer",
            "seconds": "double",
            "learning_rate": "double",
            "train_loss": "double",
            "mean_iou": "double",
            **{f"iou_{label}": "double" for label in TISSUE_LABELS},
        },
    ),
    "searches": Table(
        "tissue_search",
        RECORD_FILE,
        {
            **dict.fromkeys(("trials", "complete", "pruned", "fail", "best_trial"), "integer"),
            "best_mean_iou": "double",
            "best_settings": _TEXT,
            "most_important": _TEXT,
        },
        key="study",
    ),
    "search_trials": Table(
        "tissue_search",
        "trials.parquet",
        {
            "study": _TEXT,
            "trial": "integer",
            "state": _TEXT,
            "mean_iou": "double",
            "seconds": "double",
            "steps": "bigint",
            "goes_on_from": "integer",
            "ended": _TEXT,
            "encoder": _TEXT,
            **dict.fromkeys(("learning_rate", "weight_decay", "dice_weight", "focal_weight"), "double"),
            **dict.fromkeys(("dropout", "augment_strength", "crop_px"), "double"),
        },
    ),
    "hold_out": Table(
        "tissue_hold_out", RECORD_FILE, {"hold_out_sha256": _TEXT, "tiles": "integer", "slides": _TEXT}, key="partition"
    ),
    "hold_out_scores": Table(
        "tissue_hold_out_scores",
        RECORD_FILE,
        {
            "weights_sha256": _TEXT,
            "hold_out_sha256": _TEXT,
            "margin": "double",
            **{f"mean_{score}": "double" for score in _SCORES},
            "accuracy": "double",
            "calibration_error": "double",
            **{f"{score}_{label}": "double" for score in _SCORES for label in TISSUE_LABELS},
        },
        key="version",
    ),
    "champion": Table(
        "tissue_champion",
        RECORD_FILE,
        {"version": _TEXT, "weights_sha256": _TEXT, "chosen_by": _TEXT, "score": "double", "despite_drop": "boolean"},
        key="partition",
    ),
}
_PRECISION = ("ap_50", "ap_75", "ap_90")
TRAINING_TABLES |= {
    "cell_training": Table(
        "cell_weights",
        RECORD_FILE,
        {
            **dict.fromkeys(("weights_sha256", "parent", "parent_sha256"), _TEXT),
            "seed": "bigint",
            "epochs": "integer",
            "steps": "integer",
            "diameter_um": "double",
            "diameter_px": "double",
            "images_train": "integer",
            "images_validation": "integer",
            **dict.fromkeys(("images_sha256", "manifest_sha256", "validation_sha256"), _TEXT),
            "one_slide_only": "boolean",
            **dict.fromkeys(("validation", "device", "precision"), _TEXT),
            "resumed": "boolean",
            **{f"{score}{when}": "double" for when in ("", "_before") for score in _PRECISION},
        },
        key="version",
    ),
    "cell_training_epochs": Table(
        "cell_weights",
        "history.parquet",
        {
            "version": _TEXT,
            "epoch": "integer",
            "step": "integer",
            **dict.fromkeys(("seconds", "learning_rate", "train_loss", *_PRECISION), "double"),
        },
    ),
    "cell_training_images": Table(
        "cell_weights",
        "image_scores.parquet",
        {
            **dict.fromkeys(("version", "image", "slide", "patient"), _TEXT),
            **dict.fromkeys(("cells", "found"), "bigint"),
            **{f"{score}{when}": "double" for when in ("", "_before") for score in _PRECISION},
        },
    ),
    "cell_hold_out": Table(
        "cell_hold_out", RECORD_FILE, {"hold_out_sha256": _TEXT, "tiles": "integer", "slides": _TEXT}, key="partition"
    ),
    "cell_hold_out_scores": Table(
        "cell_hold_out_scores",
        RECORD_FILE,
        {
            **dict.fromkeys(("weights_sha256", "hold_out_sha256"), _TEXT),
            **dict.fromkeys(("margin", *_PRECISION), "double"),
        },
        key="version",
    ),
    "cell_champion": Table("cell_champion", RECORD_FILE, TRAINING_TABLES["champion"].columns, key="partition"),
}

TRAINING_VIEWS: dict[str, str] = {
    "cells_not_from_champion": """
        select k.slide, k.weights, k.weights_sha256, c.version as champion, c.weights_sha256 as champion_sha256
        from cell_masks k cross join cell_champion c where k.weights_sha256 <> c.weights_sha256 order by slide""",
    "training_lineage": """
        with recursive line as (
            select version, version as ancestor, parent as next, 0 as generations from training
            union all
            select l.version, t.version, t.parent, l.generations + 1
            from line l join training t on t.version = l.next where l.generations < 100)
        select l.version, l.generations, l.ancestor, t.weights_sha256, t.manifest_sha256, t.mean_iou, l.next as parent
        from line l join training t on t.version = l.ancestor order by l.version, l.generations""",
}
