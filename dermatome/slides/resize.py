"""Resizes images, also in bands of rows: averaging where they shrink, bilinear interpolation where they grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import ClassMap, RgbImage
from dermatome.geometry import Size

_BLOCK_ROWS = 128
_READ_PX = 1 << 24
"""A band that is computed from more pixels than this is averaged while it is read."""


def resize_image(pixels: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    """``pixels`` at ``size``: averaged where it shrinks (no aliasing), bilinear where it grows."""
    import cv2

    if Size(*pixels.shape[:2]) == size:
        return pixels
    smaller = size.area_px < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized: npt.NDArray[Any] = cv2.resize(pixels, (size.width_px, size.height_px), interpolation=how)
    return resized


def resize_labels(labels: ClassMap, size: Size) -> ClassMap:
    """``labels`` at ``size``; each pixel takes the value of the nearest centre, so no new class appears."""
    import cv2

    if Size(*labels.shape[:2]) == size:
        return labels
    how = cv2.INTER_NEAREST_EXACT
    resized: ClassMap = cv2.resize(labels, (size.width_px, size.height_px), interpolation=how)
    return resized


def resized_rows(rows_of: Callable[[int, int], RgbImage], source: Size, target: Size) -> Iterator[RgbImage]:
    """Yields a resized image in bands of rows, (rows, w, 3) each, in bounded memory.

    Args:
        rows_of: returns the image's rows from one number to another (exclusive).
        source: size of the image.
        target: size of the result.
    """
    per_row = source.height_px / target.height_px
    for first in range(0, target.height_px, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, target.height_px)
        if per_row >= 1:
            rows = range(round(first * per_row), round(last * per_row))
            wanted = Size(last - first, target.width_px)
            if len(rows) * source.width_px <= _READ_PX:
                yield resize_image(rows_of(rows.start, rows.stop), wanted)
            else:
                yield _averaged(rows_of, rows, wanted, max(1, _READ_PX // source.width_px))
            continue
        # In bilinear enlargement, a row lies between two source rows, one of which may be outside of the band.
        at = ((np.arange(first, last) + 0.5) * per_row - 0.5).clip(0, source.height_px - 1)
        upper = at.astype(np.intp)
        lower = np.minimum(upper + 1, source.height_px - 1)
        band = rows_of(int(upper[0]), int(lower[-1]) + 1).astype(np.float32)
        wide = resize_image(band, Size(len(band), target.width_px))
        share = (at - upper).astype(np.float32)[:, None, None]
        mixed = wide[upper - upper[0]] * (1 - share) + wide[lower - upper[0]] * share
        yield (mixed + 0.5).astype(np.uint8)


def _averaged(rows_of: Callable[[int, int], RgbImage], source: range, size: Size, at_once: int) -> RgbImage:
    """The rows ``source`` at a smaller ``size``, averaged as in :func:`resize_image`, reading ``at_once`` at a time."""
    edges = np.linspace(source.start, source.stop, size.height_px + 1)
    sums = np.zeros((size.height_px, size.width_px, 3), np.float32)
    for start in range(source.start, source.stop, at_once):
        rows = np.arange(start, min(start + at_once, source.stop))
        read = rows_of(start, int(rows[-1]) + 1)
        read = resize_image(read, Size(len(read), size.width_px))
        for number, (top, bottom) in enumerate(pairwise(edges)):
            share = np.minimum(rows + 1, bottom) - np.maximum(rows, top)
            within = share > 0
            if within.any():
                sums[number] += np.tensordot(share[within].astype(np.float32), read[within].astype(np.float32), 1)
    averaged: RgbImage = np.rint(sums * (size.height_px / len(source))).astype(np.uint8)
    return averaged
