"""How well instances were found: matched with the truth by overlap, then counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Matches:
    """Instances of a prediction matched with those of the truth, each at most once.

    Attributes:
        truth_ids: (K,) numbers of the matched true instances.
        predicted_ids: (K,) those they were matched with.
        ious: (K,) their intersection over union.
        truth_count: true instances in all.
        predicted_count: predicted ones.
    """

    truth_ids: npt.NDArray[np.int64]
    predicted_ids: npt.NDArray[np.int64]
    ious: npt.NDArray[np.float64]
    truth_count: int
    predicted_count: int

    @property
    def precision(self) -> float | None:
        """Share of predicted instances that are matched; None where there are none."""
        return len(self.ious) / self.predicted_count if self.predicted_count else None

    @property
    def recall(self) -> float | None:
        """Share of true instances that are matched; None where there are none."""
        return len(self.ious) / self.truth_count if self.truth_count else None

    @property
    def f1(self) -> float | None:
        """Twice the matches over all instances of both; None where neither has any."""
        both = self.truth_count + self.predicted_count
        return 2 * len(self.ious) / both if both else None

    @property
    def average_precision(self) -> float | None:
        """Matches over matches, misses and false finds: Cellpose's AP at one threshold; None where there is nothing."""
        union = self.truth_count + self.predicted_count - len(self.ious)
        return len(self.ious) / union if union else None


def match_instances(truth: Labels, predicted: Labels, iou: float = 0.5) -> Matches:
    """Matches instances one to one so that as many as possible overlap by at least ``iou``, and then the best.

    Above 0.5 a match is unique by itself; otherwise it is the optimal assignment, as in Cellpose's and StarDist's
    metrics.

    Args:
        truth: (H, W) integer, 0 background.
        predicted: likewise, of the same shape.
        iou: least intersection over union of a match, above 0.

    Raises:
        ValueError: shapes differ, numbers are negative, or ``iou`` is not in (0, 1].
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array

    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} must have one shape")
    if not 0 < iou <= 1:
        raise ValueError(f"iou must be in (0, 1], not {iou}")
    if min(truth.min(initial=0), predicted.min(initial=0)) < 0:
        raise ValueError("instances are numbered from 1, with 0 for the background")
    truth_ids, t = np.unique(truth.ravel(), return_inverse=True)
    predicted_ids, p = np.unique(predicted.ravel(), return_inverse=True)
    truth_areas, predicted_areas = np.bincount(t), np.bincount(p)
    shape = (truth_ids.size, predicted_ids.size)
    overlap = coo_array((np.ones(t.size, dtype=np.int64), (t, p)), shape=shape)
    overlap.sum_duplicates()
    rows, columns = overlap.coords
    both = (truth_ids[rows] > 0) & (predicted_ids[columns] > 0)
    rows, columns, inter = rows[both], columns[both], overlap.data[both]
    values = inter / (truth_areas[rows] + predicted_areas[columns] - inter)
    good = values >= iou
    rows, columns, values = rows[good], columns[good], values[good]
    if values.size:
        # Only instances with a partner good enough take part, which keeps the matrix small.
        used_rows, r = np.unique(rows, return_inverse=True)
        used_columns, c = np.unique(columns, return_inverse=True)
        gain = np.zeros((used_rows.size, used_columns.size))
        gain[r, c] = 1 + values / (2 * min(gain.shape))
        table = np.zeros_like(gain)
        table[r, c] = values
        i, j = linear_sum_assignment(gain, maximize=True)
        real = table[i, j] > 0
        i, j = i[real], j[real]
        rows, columns, values = used_rows[i], used_columns[j], table[i, j]
    return Matches(
        truth_ids[rows].astype(np.int64),
        predicted_ids[columns].astype(np.int64),
        values.astype(np.float64),
        int((truth_ids > 0).sum()),
        int((predicted_ids > 0).sum()),
    )


def f1_at_iou(truth: Labels, predicted: Labels, iou: float = 0.5) -> float | None:
    """F1 of instances matched at ``iou``; None where neither map has any."""
    return match_instances(truth, predicted, iou).f1


def average_precisions(
    truth: Labels, predicted: Labels, ious: Sequence[float] = (0.5, 0.75, 0.9)
) -> dict[float, float | None]:
    """Average precision at each threshold, as ``cellpose.metrics.average_precision`` has it."""
    return {iou: match_instances(truth, predicted, iou).average_precision for iou in ious}
