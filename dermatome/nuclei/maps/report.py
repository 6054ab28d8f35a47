"""The report of a nucleus network's training: its layout."""

from __future__ import annotations

from dermatome.classes import NUCLEUS_LABELS
from dermatome.nuclei.maps.figures import NUCLEUS_CHARTS
from dermatome.registry.model_kinds import NUCLEI
from dermatome.registry.report import CURVES_FIGURE, SAMPLES_FIGURE, Picture, ReportLayout, ScoreTable

CLASSES_FILE = "classes.parquet"
INSTANCE_SCORES = (
    *("pq_binary", "dq_binary", "sq_binary", "pq_classes", *(f"pq_{label}" for label in NUCLEUS_LABELS[1:])),
    *("aji", "f1_detection", "class_accuracy", "dice_mean_micro", "dice_mean_macro", "iou_mean_micro"),
    *("iou_mean_macro", *(f"dice_{label}_micro" for label in NUCLEUS_LABELS[1:])),
)
"""Those of :func:`dermatome.metrics.panoptic.nucleus_values` that the record of a version has."""
_MAIN_SCORES = {
    "score": "Score by which epochs are chosen",
    "ternary_dice_inside": "Dice of the inside",
    "ternary_dice_boundary": "Dice of the boundary",
    "dice_mean_micro": "Mean Dice of classes, over pixels",
    "pq_binary": "PQ of nuclei",
    "pq_classes": "Mean PQ of classes",
    "aji": "AJI",
    "f1_detection": "F1 of detection",
    "class_accuracy": "Accuracy of the class of nuclei",
}
NUCLEUS_REPORT = ReportLayout(
    title="Nucleus networks",
    introduction=(
        "A version is a network trained to find the nuclei of H&E images and to assign each to one of four classes. "
        "Its scores are those on patients that it was not trained on. Patches are first joined to the images that they "
        "were cut from, so that each nucleus counts once. Versions can be compared only where these patients are the "
        "same."
    ),
    kind=NUCLEI,
    main_score="score",
    tables=(
        ScoreTable("Scores", "Dice and PQ (panoptic quality) are 1 where maps are perfect.", _MAIN_SCORES),
        ScoreTable(
            "Further scores",
            "Micro: over all pixels; macro: mean over images. DQ and SQ are the two factors of PQ.",
            {name: name.replace("_", " ") for name in INSTANCE_SCORES if name not in _MAIN_SCORES},
            folded=True,
        ),
    ),
    pictures=(
        Picture(SAMPLES_FIGURE, "Samples", "The validation patches with the most classes."),
        Picture(CURVES_FIGURE, "Training curves", "Loss on training patches and scores on validation patches."),
    ),
    charts=NUCLEUS_CHARTS,
    details=(
        CLASSES_FILE,
        {"map": "map", "label": "class", "truth_px": "true pixels", "iou": "IoU", "f1": "Dice (F1)"}
        | {"precision": "precision", "recall": "recall"},
    ),
    legend="best",
)
