"""Nuclei by a watershed on hematoxylin: no network, to compare networks with.

Threshold, distance transform and watershed from its peaks (Vincent and Soille, 1991), with fixed numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from dermatome.classes import Instances
from dermatome.geometry import Box
from dermatome.inference.segmenter import Segmenter
from dermatome.skin.cells.image import PREPARATION, CellImage
from dermatome.storage.files import sha256_bytes

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute

_SMOOTH_UM = 0.5
_THRESHOLD = 0.5
"""Of the equalised hematoxylin, which is about 0 to 1."""
_PEAK_DISTANCE_UM = 2.5
SHA256 = sha256_bytes(f"watershed-1 {PREPARATION} {_SMOOTH_UM} {_THRESHOLD} {_PEAK_DISTANCE_UM}".encode())
"""Of what defines the method."""


def load(path: Path, compute: Compute) -> Segmenter:
    """The method; it has no weights file."""
    return Segmenter("watershed", SHA256, "", _on, backend="opencv")


def _on(image: CellImage, mpp: float) -> Callable[[Box], Instances]:
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    def segment(box: Box) -> Instances:
        dark = cv2.GaussianBlur(image.network_input(box), (0, 0), _SMOOTH_UM / mpp)
        inside = (dark > _THRESHOLD).astype(np.uint8)
        inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3)))
        depth = cv2.GaussianBlur(cv2.distanceTransform(inside, cv2.DIST_L2, 5), (0, 0), _SMOOTH_UM / mpp)
        nearest_px = max(1, round(_PEAK_DISTANCE_UM / mpp))
        peaks = peak_local_max(depth, min_distance=nearest_px, exclude_border=False, labels=inside)
        markers = np.zeros(depth.shape, np.int32)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        found: Instances = watershed(-depth, markers, mask=inside.astype(bool)).astype(np.int32)
        return found

    return segment
