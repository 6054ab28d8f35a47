"""Which parts of a first look at a slide deserve a second: significant regions and the boxes around them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dermatome.classes import ClassMap, TissueClass
from dermatome.geometry import Box


def significant_regions(coarse: ClassMap, share: float) -> tuple[npt.NDArray[np.bool_], list[Box]]:
    """Connected regions of epidermis and keratin with at least ``share`` of the largest one's area.

    Args:
        coarse: (h, w) uint8 of :class:`TissueClass`.
        share: 0 to 1.

    Returns:
        (h, w) bool of their pixels, and a box for each, rows first.
    """
    import cv2

    wanted = (coarse == TissueClass.EPIDERMIS) | (coarse == TissueClass.KERATIN)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(wanted.view(np.uint8), connectivity=8)
    if count == 1:
        return np.zeros(coarse.shape, dtype=bool), []
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= share * areas.max())
    boxes = []
    for piece in kept:
        left, top, width, height = (int(v) for v in stats[piece, :4])
        boxes.append(Box(top, left, top + height, left + width))
    wanted_piece = np.zeros(count, bool)
    wanted_piece[kept] = True
    return wanted_piece[pieces], boxes


def merge_boxes(boxes: list[Box]) -> list[Box]:
    """Boxes of which no two overlap and that cover all of ``boxes``: those that overlap are joined into one."""
    merged: list[Box] = []
    for box in boxes:
        joined = True
        while joined:
            joined = False
            for other in merged:
                common = box.common(other).size
                if min(common.height_px, common.width_px) > 0:
                    merged.remove(other)
                    box, joined = Box.covering([box, other]), True
                    break
        merged.append(box)
    return sorted(merged, key=lambda b: (b.top_px, b.left_px))
