"""Scores of ordered levels compared with true levels, for many resamples at once.

``weights`` are (resamples, n): how often each resample contains each sample. Results are (resamples,), NaN if a score
is undefined.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CALIBRATION_BINS = 10


def level_counts(truth: Ints, read: Ints, levels: int, weights: Floats) -> Floats:
    """(resamples, levels, levels) number of samples by true level and read level."""
    both = np.eye(levels * levels)[truth * levels + read]
    counts: Floats = (weights @ both).reshape(-1, levels, levels)
    return counts


def quadratic_kappa(counts: Floats) -> Floats:
    """Cohen's kappa with quadratic weights (Cohen 1968, Psychological Bulletin 70(4)) of :func:`level_counts`.

    1 is full agreement, 0 agreement by chance. It is undefined if all samples have the same true and read level.
    """
    levels = np.arange(counts.shape[-1])
    apart = (levels[:, None] - levels) ** 2
    by_chance = (apart * counts.sum(axis=-1)[..., None] * counts.sum(axis=-2)[..., None, :]).sum(axis=(-2, -1))
    return 1 - _divide(counts.sum(axis=(-2, -1)) * (apart * counts).sum(axis=(-2, -1)), by_chance)


def calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Expected calibration error over ten equal bins of confidence (Naeini et al. 2015, AAAI 29).

    It is the mean distance, 0 to 1, between the (n,) probabilities of the read levels and their accuracy.
    """
    place = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = weights @ (np.eye(CALIBRATION_BINS)[place] * (confidence - right)[:, None])
    return _divide(np.abs(gaps).sum(axis=1), weights.sum(axis=1))


def rank_correlation(first: Floats, second: Floats, weights: Floats) -> Floats:
    """Spearman's correlation; equal values have their mean rank. It is undefined if one of them is constant."""
    total = weights.sum(axis=1, keepdims=True)
    ranks = [_ranks(values, weights) - (total + 1) / 2 for values in (first, second)]
    products = [(weights * a * b).sum(axis=1) for a, b in ((ranks[0], ranks[1]), (ranks[0],) * 2, (ranks[1],) * 2)]
    return _divide(products[0], np.sqrt(products[1] * products[2]))


def _ranks(values: Floats, weights: Floats) -> Floats:
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    count = np.add.reduceat(weights[:, order], starts, axis=1)  # (resamples, distinct values)
    ranks: Floats = (count.cumsum(axis=1) - (count - 1) / 2)[:, place]
    return ranks


def _divide(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
