"""Scores of instances: predicted ones are matched with ground truth ones by overlap, then counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Matches:
    """Instances of a prediction matched with those of the ground truth, each at most once.

    Attributes:
        truth_ids: (K,) numbers of the matched instances in the ground truth.
        predicted_ids: (K,) numbers of the predicted instances that they are matched with.
        ious: (K,) intersection over union of each match.
        truth_count: number of instances in the ground truth.
        predicted_count: number of predicted instances.
    """

    truth_ids: npt.NDArray[np.int64]
    predicted_ids: npt.NDArray[np.int64]
    ious: npt.NDArray[np.float64]
    truth_count: int
    predicted_count: int

    @property
    def precision(self) -> float | None:
        """Share of predicted instances that are matched; 0 if only the ground truth has instances, None if neither."""
        return self._share(self.predicted_count)

    @property
    def recall(self) -> float | None:
        """Share of true instances that are matched; 0 if only the prediction has instances, None if neither."""
        return self._share(self.truth_count)

    @property
    def f1(self) -> float | None:
        """Twice the matches divided by the instances of both; None if neither has any."""
        both = self.truth_count + self.predicted_count
        return 2 * len(self.ious) / both if both else None

    @property
    def average_precision(self) -> float | None:
        """Matches / (matches + missed + false positives), Cellpose's AP at one threshold; None if there are none."""
        union = self.truth_count + self.predicted_count - len(self.ious)
        return len(self.ious) / union if union else None

    def _share(self, count: int) -> float | None:
        if not self.truth_count and not self.predicted_count:
            return None
        return len(self.ious) / count if count else 0.0


@dataclass(frozen=True)
class Overlaps:
    """The instances of two maps that share pixels, and how many; N true and M predicted instances, K pairs.

    Attributes:
        truth_ids: (N,) numbers of the true instances, in the order of their first pixels.
        predicted_ids: (M,) the same for predicted instances.
        truth_px: (N,) area of each true instance, px.
        predicted_px: (M,) area of each predicted instance, px.
        rows: (K,) index into ``truth_ids`` for each pair.
        columns: (K,) index into ``predicted_ids`` for each pair.
        shared_px: (K,) number of pixels that both instances of a pair have.
    """

    truth_ids: npt.NDArray[np.int64]
    predicted_ids: npt.NDArray[np.int64]
    truth_px: npt.NDArray[np.int64]
    predicted_px: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    shared_px: npt.NDArray[np.int64]

    @property
    def union_px(self) -> npt.NDArray[np.int64]:
        """(K,) number of pixels that at least one instance of a pair has."""
        union: npt.NDArray[np.int64] = self.truth_px[self.rows] + self.predicted_px[self.columns] - self.shared_px
        return union

    @property
    def ious(self) -> npt.NDArray[np.float64]:
        """(K,) intersection over union of each pair."""
        return np.asarray(self.shared_px / self.union_px, dtype=np.float64)


def overlaps(truth: Labels, predicted: Labels) -> Overlaps:
    """The pairs of instances that share pixels; the order of pairs does not depend on the instances' numbers.

    Raises:
        ValueError: shapes differ, or numbers are negative.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} must have one shape")
    if min(truth.min(initial=0), predicted.min(initial=0)) < 0:
        raise ValueError("instances are numbered from 1, with 0 for the background")
    truth_ids, truth_px, t = _by_first_pixel(truth)
    predicted_ids, predicted_px, p = _by_first_pixel(predicted)
    both = (t >= 0) & (p >= 0)
    pairs, shared = np.unique(t[both] * max(1, predicted_ids.size) + p[both], return_counts=True)
    rows, columns = np.divmod(pairs, max(1, predicted_ids.size))
    return Overlaps(truth_ids, predicted_ids, truth_px, predicted_px, rows, columns, shared)


def _by_first_pixel(
    labels: Labels,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Numbers of the instances by first pixel, their areas, and the index of each pixel's instance, or -1."""
    ids, first, inverse, areas = np.unique(labels.ravel(), return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(np.where(ids == 0, -1, first))
    order = order[ids[order] != 0]
    place = np.full(ids.size, -1, np.int64)
    place[order] = np.arange(order.size)
    return ids[order].astype(np.int64), areas[order], place[inverse.ravel()]


def match_instances(truth: Labels, predicted: Labels, iou: float = 0.5) -> Matches:
    """Matches instances one to one at an IoU of at least ``iou``: as many as possible, then with the largest IoUs.

    Above 0.5, a match is always unique; otherwise it is the optimal assignment, as in Cellpose's and StarDist's
    metrics.

    Raises:
        ValueError: shapes differ, numbers are negative, or ``iou`` is not in (0, 1].
    """
    from scipy.optimize import linear_sum_assignment

    if not 0 < iou <= 1:
        raise ValueError(f"iou must be in (0, 1], not {iou}")
    found = overlaps(truth, predicted)
    truth_ids, predicted_ids = found.truth_ids, found.predicted_ids
    rows, columns, values = found.rows, found.columns, found.ious
    good = values >= iou
    rows, columns, values = rows[good], columns[good], values[good]
    if values.size:
        # Only instances with a possible partner take part, which keeps the matrix small.
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
        truth_ids[rows], predicted_ids[columns], values.astype(np.float64), truth_ids.size, predicted_ids.size
    )


def aggregated_jaccard(truth: Labels, predicted: Labels, spared: Sequence[int] = ()) -> tuple[int, int]:
    """The two sums whose ratio is Kumar's aggregated Jaccard index (AJI), of one image; they can be added over images.

    Kumar et al. 2017 ("A dataset and a technique for generalized nuclear segmentation"): each true nucleus is paired
    with the predicted nucleus of highest IoU, which may be paired several times. The sum of shared pixels is divided by
    the sum of unions, true nuclei without a partner and predicted nuclei without a partner. If two predicted nuclei
    have the same IoU, the one with more shared pixels is chosen, then the one whose first pixel comes first, so the
    numbers of instances do not matter.

    Predicted instances in ``spared`` do not count as errors if no true nucleus is paired with them.

    Returns:
        Number of shared pixels, and number of pixels of the unions.

    Raises:
        ValueError: see :func:`overlaps`.
    """
    found = overlaps(truth, predicted)
    best = np.lexsort((found.columns, -found.shared_px, -found.ious, found.rows))
    _, first = np.unique(found.rows[best], return_index=True)
    pairs = best[first]
    alone = np.setdiff1d(np.arange(found.truth_ids.size), found.rows[pairs])
    nobodys = np.setdiff1d(np.arange(found.predicted_ids.size), found.columns[pairs])
    nobodys = nobodys[~np.isin(found.predicted_ids[nobodys], spared)]
    union = found.union_px[pairs].sum() + found.truth_px[alone].sum() + found.predicted_px[nobodys].sum()
    return int(found.shared_px[pairs].sum()), int(union)
