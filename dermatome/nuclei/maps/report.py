"""The report of a nucleus network's training: its layout; and its scores on the hold-out set of patches."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import NUCLEUS_LABELS
from dermatome.metrics.panoptic import nucleus_values
from dermatome.nuclei.maps.evaluate import check_stain, evaluate_patches
from dermatome.nuclei.maps.figures import NUCLEUS_CHARTS, samples_figure
from dermatome.nuclei.maps.network import load_nucleus_weights
from dermatome.nuclei.maps.segment import prepare_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.nuclei.patches.files import load_patches, patch_manifest_rows
from dermatome.registry.manifest import ManifestRow
from dermatome.registry.model_kinds import NUCLEI
from dermatome.registry.report import CURVES_FIGURE, SAMPLES_FIGURE, Picture, ReportLayout, ScoreTable
from dermatome.storage.record import Scalar

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

CLASSES_FILE = "classes.parquet"
INSTANCE_SCORES = (
    *("pq_binary", "dq_binary", "sq_binary", "pq_classes", *(f"pq_{label}" for label in NUCLEUS_LABELS[1:])),
    *("aji", "f1_detection", "class_accuracy", "dice_mean_micro", "dice_mean_macro", "iou_mean_micro"),
    *("iou_mean_macro", *(f"dice_{label}_micro" for label in NUCLEUS_LABELS[1:])),
)
"""The scores of :func:`dermatome.metrics.panoptic.nucleus_values` that are in a version's record."""
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
        "were cut from, so that each nucleus counts once. Versions can be compared only if these patients are the "
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


def nucleus_rows(folders: Sequence[Path]) -> list[ManifestRow]:
    """Manifest rows of the patches in folders of the hold-out set."""
    return patch_manifest_rows(load_patches(*folders), "hold_out")


def score_nuclei_version(
    weights: Path, samples: Sequence[Path], folder: Path, *, version: str, compute: Compute, settings: NucleusSettings
) -> tuple[Mapping[str, Scalar], bytes]:
    """Scores of a version on the images that the patches of the hold-out set are cut from, and a figure of some.

    Raises:
        BadSetting: the hold-out and training patches differ in stain normalisation.
    """
    loaded, patches = load_nucleus_weights(weights), load_patches(*samples)
    check_stain(version, loaded, patches)
    network = prepare_nuclei(loaded, dataclasses.replace(compute, backend="torch"), settings)
    scales = {mpp: [patch for patch in patches if patch.mpp == mpp] for mpp in {patch.mpp for patch in patches}}
    scores = [image for mpp in sorted(scales) for image in evaluate_patches(scales[mpp], network, mpp, settings)]
    return nucleus_values(scores), samples_figure(patches, network, patches[0].mpp, settings)
