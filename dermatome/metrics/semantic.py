"""Scores of a predicted semantic map compared with the ground truth, from one confusion matrix.

A class that only one of them has scores 0, so that no mean improves by never predicting a class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Confusion = npt.NDArray[np.int64]


class ScoreOutcome(StrEnum):
    """Whether a class could be scored."""

    SCORED = "scored"
    NOT_IN_TRUTH = "not_in_truth"
    NOT_PREDICTED = "not_predicted"
    ABSENT = "absent"


@dataclass(frozen=True)
class ClassScore:
    """The scores of one class; they are None if neither ground truth nor prediction has it.

    If only one of them has it, a denominator is zero and that score is 0, as with scikit-learn's ``zero_division=0``.

    Attributes:
        label: the class.
        outcome: whether ground truth and prediction have the class.
        truth_px: number of its pixels in the ground truth.
        predicted_px: number of its pixels in the prediction.
        tp_px: true positives: pixels of the class that were predicted as it.
        fp_px: false positives: pixels of other classes that were predicted as it.
        fn_px: false negatives: pixels of the class that were predicted as others.
        tn_px: true negatives: pixels of other classes that were not predicted as it.
        precision: share of the predicted pixels that are correct.
        recall: share of the true pixels that were found.
        f1: harmonic mean of both (the Dice coefficient).
        iou: shared pixels divided by those of ground truth and prediction together (Jaccard index).
        mcc: Matthews correlation coefficient of the class against all others (Matthews, 1975), -1 to 1; also None if
            ground truth and prediction contain nothing else.
    """

    label: str
    outcome: ScoreOutcome
    truth_px: int
    predicted_px: int
    tp_px: int
    fp_px: int
    fn_px: int
    tn_px: int
    precision: float | None
    recall: float | None
    f1: float | None
    iou: float | None
    mcc: float | None


def confusion_matrix(
    truth: npt.NDArray[np.integer[Any]], predicted: npt.NDArray[np.integer[Any]], classes: int
) -> Confusion:
    """(C, C) int64: pixels of each true class (row) that were predicted as each class (column).

    Args:
        truth: class of each pixel, any shape, 0 to ``classes`` - 1.
        predicted: predicted class of each pixel, same shape.
        classes: number of classes, C.

    Raises:
        ValueError: shapes differ, or a class is out of range.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} differ in shape")
    pairs = truth.ravel().astype(np.intp) * classes + predicted.ravel()
    if truth.size and not (truth.min() >= 0 and truth.max() < classes and predicted.max() < classes):
        raise ValueError(f"a class is outside 0..{classes - 1}")
    counted: Confusion = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    return counted


def class_scores(confusion: Confusion, labels: Sequence[str]) -> list[ClassScore]:
    """The scores of each class, in the order of ``labels``, from a confusion matrix with ground truth in rows."""
    total = int(confusion.sum())
    scores = []
    for index, label in enumerate(labels):
        # Python's integers, as products of pixel counts over many slides exceed 64 bits.
        hit = int(confusion[index, index])
        truth, predicted = int(confusion[index].sum()), int(confusion[:, index].sum())
        missed, false = truth - hit, predicted - hit
        right_without = total - truth - false
        spread = math.sqrt(truth) * math.sqrt(predicted) * math.sqrt(total - truth) * math.sqrt(total - predicted)
        absent = not truth and not predicted
        outcome = {
            (True, True): ScoreOutcome.SCORED,
            (False, True): ScoreOutcome.NOT_IN_TRUTH,
            (True, False): ScoreOutcome.NOT_PREDICTED,
            (False, False): ScoreOutcome.ABSENT,
        }[truth > 0, predicted > 0]
        pixels = truth, predicted, hit, false, missed, right_without
        parts = ((hit, predicted), (hit, truth), (2 * hit, truth + predicted), (hit, truth + false))
        precision, recall, f1, iou = (None if absent else _ratio(*part) for part in parts)
        mcc = None if absent or hit == total else _ratio(hit * right_without - false * missed, spread)
        scores.append(ClassScore(label, outcome, *pixels, precision, recall, f1, iou, mcc))
    return scores


SCORE_NAMES = ("precision", "recall", "f1", "iou", "mcc")


def mean_score(scores: Sequence[ClassScore], name: str) -> float | None:
    """The mean of a score of :data:`SCORE_NAMES` over classes in ground truth or prediction; None without such."""
    return mean_of_known([getattr(score, name) for score in scores])


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are not None; None if all are."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def score_values(scores: Sequence[ClassScore]) -> dict[str, float | None]:
    """Named scores, such as ``iou_epidermis``, and ``mean_iou``, by which a version is chosen."""
    means = {f"mean_{name}": mean_score(scores, name) for name in SCORE_NAMES}
    return means | {f"{name}_{score.label}": getattr(score, name) for score in scores for name in SCORE_NAMES}


def _ratio(part: int, whole: float) -> float:
    return part / whole if whole else 0.0
