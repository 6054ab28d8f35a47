"""Scores of nuclei compared with the ground truth: pixels by class, and instances by detection, outline and class.

Each score states how images are combined and what is averaged, as published figures of the same prediction differ by
this. Nothing depends on the numbers of instances. Ambiguous regions and, for classes, nuclei of unknown class are void
as in Kirillov et al. 2019 ("Panoptic segmentation"): their pixels do not count, and a predicted nucleus with more than
half of its pixels in them is not a false positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, NUCLEUS_LABELS, TERNARY_LABELS
from dermatome.labels.drawn_maps import NucleusMaps
from dermatome.metrics.instances import Labels, Matches, aggregated_jaccard, match_instances
from dermatome.metrics.semantic import Confusion, class_scores, confusion_matrix, mean_of_known

DETECTION_RADIUS_UM = 3.0
"""12 px at 0.25 mpp, as in Graham et al. 2019 ("HoVer-Net")."""

_OVER_HALF = math.nextafter(0.5, 1)


@dataclass(frozen=True)
class Panoptic:
    """Instances of an image, or summed over images, matched at an IoU above 0.5.

    Attributes:
        tp: number of matched instances.
        fp: number of predicted instances without a match.
        fn: number of true instances without a match.
        iou_sum: sum of the IoUs of matches.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    iou_sum: float = 0.0

    def __add__(self, other: Panoptic) -> Panoptic:
        return Panoptic(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.iou_sum + other.iou_sum)

    @property
    def quality(self) -> float | None:
        """PQ, the product of SQ and DQ; None if neither map has instances."""
        return self.iou_sum / self._half if self._half else None

    @property
    def detection(self) -> float | None:
        """DQ: the F1 of instances found at an IoU above 0.5."""
        return self.tp / self._half if self._half else None

    @property
    def segmentation(self) -> float | None:
        """SQ: mean IoU of the matched instances; None without matches."""
        return self.iou_sum / self.tp if self.tp else None

    @property
    def _half(self) -> float:
        return self.tp + self.fp / 2 + self.fn / 2


@dataclass(frozen=True)
class ImageScores:
    """Everything that is counted on one image.

    Attributes:
        semantic: (5, 5) pixels of each true class (row) by predicted class (column), without void pixels.
        ternary: (3, 3) the same for the ternary map.
        binary: instances regardless of class.
        by_class: instances of each class except the background, matched within the class.
        classified: (4, 5) matched nuclei of each true class (row) by predicted class (column; 0 is none).
        jaccard: the two sums of the AJI.
        centres: nuclei matched by their centres; ``iou_sum`` is 0.
    """

    semantic: Confusion
    ternary: Confusion
    binary: Panoptic
    by_class: tuple[Panoptic, ...]
    classified: Confusion
    jaccard: tuple[int, int]
    centres: Panoptic

    @property
    def nuclei(self) -> int:
        """Number of true nuclei that count."""
        return self.binary.tp + self.binary.fn


def score_nuclei(truth: NucleusMaps, predicted: NucleusMaps, mpp: float) -> ImageScores:
    """Compares the predicted nuclei of one image with the ground truth.

    Args:
        truth: the ground truth.
        predicted: the prediction, of the same size. Its semantic and ternary maps are scored as they are, its nuclei by
            ``instances`` and ``classes``, where 0 is no class.
        mpp: microns per pixel, for the radius within which centres match.

    Raises:
        ValueError: sizes differ, or the prediction has a pixel without a class.
    """
    void = truth.ignored
    spared = mostly_in(predicted.instances, void)
    left = np.where(void, 0, predicted.instances)
    matches = match_instances(truth.instances, left, _OVER_HALF)
    return ImageScores(
        semantic=_confusion(truth.semantic, predicted.semantic, len(NUCLEUS_LABELS)),
        ternary=_confusion(truth.ternary, predicted.ternary, len(TERNARY_LABELS)),
        binary=_counted(matches, left, spared),
        by_class=tuple(_of_class(truth, predicted, kind) for kind in range(1, len(NUCLEUS_LABELS))),
        classified=_classified(matches, truth.classes, predicted.classes),
        jaccard=aggregated_jaccard(truth.instances, left, spared),
        centres=_centres_found(truth.instances, predicted.instances, spared, DETECTION_RADIUS_UM / mpp),
    )


def nucleus_values(images: Sequence[ImageScores]) -> dict[str, float | None]:
    """Named scores over a whole set of images; a score whose denominator is zero is None.

    Pixels: ``iou_<class>_micro`` and ``dice_<class>_micro`` are computed over all pixels of all images together;
    ``_macro`` is the mean over the images that have the class in ground truth or prediction. ``dice_mean_micro`` and
    ``_macro`` are means over the classes of nuclei. ``dice_inside`` and ``dice_boundary`` are micro.

    Instances: ``pq_binary``, ``dq_`` and ``sq_`` are computed over all instances of all images together, and
    ``pq_binary_macro`` is the mean over images. ``pq_<class>`` is computed over all images too, so a false positive
    counts equally in an image without that class; ``pq_classes`` is the mean over classes in ground truth or
    prediction. ``aji`` is the mean over images, as in MoNuSeg, and ``aji_micro`` the ratio of sums. ``f1_detection`` is
    summed over images. ``class_accuracy`` is the share of matched nuclei of known class with the right class.
    """
    values: dict[str, float | None] = {}
    for name in ("semantic", "ternary"):
        labels = NUCLEUS_LABELS if name == "semantic" else TERNARY_LABELS
        each = [class_scores(getattr(image, name), labels) for image in images]
        total: Any = sum((getattr(image, name) for image in images), np.zeros((len(labels),) * 2, np.int64))
        together = class_scores(total, labels)
        for place, score in enumerate(together[1:], 1):
            for shown, field in (("iou", "iou"), ("dice", "f1")):
                micro = getattr(score, field)
                macro = mean_of_known([getattr(scores[place], field) for scores in each])
                if name == "semantic":
                    values[f"{shown}_{score.label}_micro"] = micro
                    values[f"{shown}_{score.label}_macro"] = macro
                elif field == "f1":
                    values[f"dice_{score.label}"] = micro
    for how in ("micro", "macro"):
        for shown in ("iou", "dice"):
            values[f"{shown}_mean_{how}"] = mean_of_known(
                [values.get(f"{shown}_{k}_{how}") for k in NUCLEUS_LABELS[1:]]
            )
    binary = sum((image.binary for image in images), Panoptic())
    values |= {"pq_binary": binary.quality, "dq_binary": binary.detection, "sq_binary": binary.segmentation}
    values["pq_binary_macro"] = mean_of_known([image.binary.quality for image in images])
    for place, label in enumerate(NUCLEUS_LABELS[1:]):
        values[f"pq_{label}"] = sum((image.by_class[place] for image in images), Panoptic()).quality
    values["pq_classes"] = mean_of_known([values[f"pq_{label}"] for label in NUCLEUS_LABELS[1:]])
    values["aji"] = mean_of_known([_ratio(*image.jaccard) for image in images])
    values["aji_micro"] = _ratio(sum(i.jaccard[0] for i in images), sum(i.jaccard[1] for i in images))
    values["f1_detection"] = sum((image.centres for image in images), Panoptic()).detection
    right = sum(int(np.trace(image.classified[:, 1:])) for image in images)
    values["class_accuracy"] = _ratio(right, sum(int(image.classified.sum()) for image in images))
    return values


def mostly_in(instances: Labels, void: npt.NDArray[np.bool_]) -> list[int]:
    """Numbers of the instances with more than half of their pixels in ``void``."""
    if not void.any():
        return []
    areas, inside = np.bincount(instances.ravel()), np.bincount(instances[void])
    inside = np.pad(inside, (0, areas.size - inside.size))
    return [int(number) for number in np.flatnonzero(2 * inside > areas) if number]


def panoptic(truth: Labels, predicted: Labels, void: npt.NDArray[np.bool_]) -> Panoptic:
    """Matches instances at an IoU above 0.5, where each match is unique.

    Pixels in ``void`` (H, W) do not count; the ground truth is 0 there.
    """
    left = np.where(void, 0, predicted)
    return _counted(match_instances(truth, left, _OVER_HALF), left, mostly_in(predicted, void))


def _of_class(truth: NucleusMaps, predicted: NucleusMaps, kind: int) -> Panoptic:
    unknown = truth.ignored | (truth.classes == IGNORED)[truth.instances]
    own = np.where((truth.classes == kind)[truth.instances], truth.instances, 0)
    return panoptic(own, np.where((predicted.classes == kind)[predicted.instances], predicted.instances, 0), unknown)


def _counted(matches: Matches, predicted: Labels, spared: Sequence[int]) -> Panoptic:
    """Counts matches and errors, without those predicted instances in ``spared`` that have no match."""
    excused = set(spared).difference(matches.predicted_ids.tolist())
    if excused:
        excused.intersection_update(np.unique(predicted).tolist())
    found = len(matches.ious)
    false = matches.predicted_count - found - len(excused)
    return Panoptic(found, false, matches.truth_count - found, float(matches.ious.sum()))


def _classified(
    matches: Matches, truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8]
) -> npt.NDArray[np.int64]:
    own, given = truth[matches.truth_ids], predicted[matches.predicted_ids]
    known = own != IGNORED
    kinds = len(NUCLEUS_LABELS)
    return confusion_matrix(own[known], given[known], kinds)[1:]


def _confusion(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], classes: int) -> Confusion:
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in shape")
    known = truth != IGNORED
    return confusion_matrix(truth[known], predicted[known], classes)


def _centres_found(truth: Labels, predicted: Labels, spared: Sequence[int], radius_px: float) -> Panoptic:
    """Matches centres of nuclei one to one within a radius: as many as possible, then the nearest."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    _, there = _centres(truth)
    ids, found = _centres(predicted)
    distances = cdist(there, found)
    # A pair that is too far apart costs more than all pairs that are near enough together.
    cost = np.where(distances <= radius_px, distances / radius_px, 2.0 * min(distances.shape, default=0) + 2)
    rows, columns = linear_sum_assignment(cost)
    near = distances[rows, columns] <= radius_px
    tp = int(near.sum())
    excused = set(spared).difference(ids[columns[near]].tolist())
    return Panoptic(tp, len(ids) - tp - len(excused), len(there) - tp)


def _centres(labels: Labels) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Numbers (N,) and mean row and column (N, 2) of the instances."""
    ids, inverse = np.unique(labels[labels > 0], return_inverse=True)
    areas = np.maximum(np.bincount(inverse, minlength=ids.size), 1)
    sums = [np.bincount(inverse, weights=where, minlength=ids.size) for where in np.nonzero(labels > 0)]
    return ids.astype(np.int64), np.stack([total / areas for total in sums], axis=-1)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
