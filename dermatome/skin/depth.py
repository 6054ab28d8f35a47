"""Depth in the epidermis: the distance of a pixel from the dermis, and the layer that makes it one of."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dermatome.classes import TissueClass
from dermatome.geometry import Box, Size

FloatMap = npt.NDArray[np.float32]


def number_layers(distance_px: FloatMap, thickness_px: float) -> npt.NDArray[np.uint16]:
    """The layer of each distance: ``ceil(distance / thickness)``, at least 1.

    A distance within a millionth of a border counts as on it, so that an exact multiple of the thickness, computed in
    floating point, does not open a layer of its own.
    """
    exact = distance_px.astype(np.float64) / thickness_px
    number: npt.NDArray[np.uint16] = np.maximum(np.ceil(exact * (1 - 1e-6)), 1).astype(np.uint16)
    return number


def distance_from_dermis(tissue_mask: npt.NDArray[np.uint8], box: Box) -> FloatMap:
    """The distance of each pixel of ``box`` that is epidermis to the nearest pixel of dermis, anywhere on the slide.

    Works in a window around the box, not on the whole slide: a window that reaches as far beyond the box as the
    farthest distance found in it cannot have missed a nearer dermis.

    Returns:
        (h, w) float32, px; only the epidermis' values are sure.
    """
    import cv2

    size = Size(*tissue_mask.shape)
    inside = tissue_mask[box.slices] == TissueClass.EPIDERMIS
    margin_px = 64
    while True:
        window = box.expanded(margin_px, size)
        dermis = tissue_mask[window.slices] == TissueClass.DERMIS
        whole = window == Box.whole(size)
        if not dermis.any() and not whole:
            margin_px *= 2
            continue
        distance = cv2.distanceTransform((~dermis).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        top, left = box.top_px - window.top_px, box.left_px - window.left_px
        part: FloatMap = distance[top : top + box.size.height_px, left : left + box.size.width_px]
        farthest = float(part[inside].max())
        if whole or farthest <= margin_px:
            return part
        margin_px = math.ceil(farthest)


def near_dermis(epidermis: npt.NDArray[np.bool_], distance_px: FloatMap, max_gap_px: float) -> npt.NDArray[np.bool_]:
    """The epidermis (bool, h × w) without the pieces whose nearest pixel is farther than ``max_gap_px`` from dermis."""
    import cv2

    if float(distance_px[epidermis].max()) <= max_gap_px:
        return epidermis
    count, pieces = cv2.connectedComponents(epidermis.view(np.uint8), connectivity=8)
    near = np.zeros(count, bool)
    near[pieces[epidermis & (distance_px <= max_gap_px)]] = True
    kept: npt.NDArray[np.bool_] = epidermis & near[pieces]
    return kept


def bounding_box(mask: npt.NDArray[np.bool_]) -> Box | None:
    """The smallest box that holds every True of ``mask`` (H, W); None where there is none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
