"""Depth in the epidermis: the distance of a pixel from the dermis, and the layer that makes it one of.

Nothing here holds a whole slide at full resolution. Distances up to 2,048 px are exact. A pixel farther from any dermis
than that, which in a section of skin is one of a piece torn off, takes its distance from a map of the whole slide of at
most 8,192 px a side: exact on a slide no larger than that, off by less than 1 % on one of up to 100,000 px.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dermatome.classes import TissueClass
from dermatome.geometry import Box, Size
from dermatome.labels.tiled import TILE_PX
from dermatome.slides.tiled_tiff import TiledLabels

Mask = npt.NDArray[np.uint8]
BoolMap = npt.NDArray[np.bool_]
FloatMap = npt.NDArray[np.float32]

FAR_PX = 2048
"""How far around a block dermis is looked for at full resolution."""
COARSE_SIDE_PX = 8192
"""The longest side of the map of the whole slide."""


def number_layers(distance_px: FloatMap, thickness_px: float) -> npt.NDArray[np.uint16]:
    """The layer of each distance: ``ceil(distance / thickness)``, at least 1.

    A distance within a millionth of a border counts as on it, so that an exact multiple of the thickness, computed in
    floating point, does not open a layer of its own.
    """
    exact = distance_px.astype(np.float64) / thickness_px
    number: npt.NDArray[np.uint16] = np.maximum(np.ceil(exact * (1 - 1e-6)), 1).astype(np.uint16)
    return number


class Survey:
    """Where on a slide epidermis and dermis are, at most 8,192 cells a side.

    Attributes:
        size: of the slide.
        step_px: side of a cell.
        epidermis: (h, w) bool, cells with a pixel of it.
        dermis: the same.
        epidermis_px: pixels of epidermis.
        tissue: the cells with any tissue, as a box of the slide; None where there is none.
    """

    def __init__(self, tissue_mask: Mask | TiledLabels) -> None:
        """Reads the mask once, in bands of rows."""
        self.size = Size(*tissue_mask.shape)
        self.step_px = max(1, math.ceil(max(tissue_mask.shape) / COARSE_SIDE_PX))
        self.epidermis_px = 0
        found: tuple[list[BoolMap], list[BoolMap], list[BoolMap]] = ([], [], [])
        band_px = self.step_px * max(1, TILE_PX // self.step_px)
        for top in range(0, self.size.height_px, band_px):
            band = tissue_mask[top : min(top + band_px, self.size.height_px), 0 : self.size.width_px]
            epidermis = band == TissueClass.EPIDERMIS
            self.epidermis_px += int(np.count_nonzero(epidermis))
            for cells, of_band in zip(found, (epidermis, band == TissueClass.DERMIS, band > 0), strict=True):
                cells.append(_any_in_cells(of_band, self.step_px))
        self.epidermis, self.dermis, tissue = (np.concatenate(cells) for cells in found)
        self.tissue = self.cells_box(tissue, Box.whole(self.size))
        self._far_px: FloatMap | None = None

    def cells_box(self, cells: BoolMap, within: Box) -> Box | None:
        """The smallest box of the slide that holds every True of ``cells`` that ``within`` touches, cut to it."""
        step = self.step_px
        top, left = within.top_px // step, within.left_px // step
        box = bounding_box(cells[top : -(-within.bottom_px // step), left : -(-within.right_px // step)])
        if box is None:
            return None
        return Box(
            max(within.top_px, (top + box.top_px) * step),
            max(within.left_px, (left + box.left_px) * step),
            min(within.bottom_px, (top + box.bottom_px) * step),
            min(within.right_px, (left + box.right_px) * step),
        )

    def far_px(self, box: Box) -> FloatMap:
        """(h, w) float32, px: the distance from the cell of each pixel of ``box`` to the nearest with dermis."""
        if self._far_px is None:
            self._far_px = _distance(~self.dermis) * np.float32(self.step_px)
        rows, columns = (np.arange(part.start, part.stop) // self.step_px for part in box.slices)
        far: FloatMap = self._far_px[rows[:, None], columns]
        return far


def distance_from_dermis(tissue_mask: Mask | TiledLabels, box: Box, survey: Survey) -> FloatMap:
    """The distance of each pixel of ``box`` that is epidermis to the nearest pixel of dermis, anywhere on the slide.

    Works in a window around the box, not on the whole slide: a window that reaches as far beyond the box as the
    farthest distance found in it cannot have missed a nearer dermis.

    Returns:
        (h, w) float32, px; only the epidermis' values are sure.
    """
    inside = tissue_mask[box.slices] == TissueClass.EPIDERMIS
    margin_px = 64
    while True:
        window = box.expanded(margin_px, survey.size)
        dermis = tissue_mask[window.slices] == TissueClass.DERMIS
        whole = window == Box.whole(survey.size)
        if not dermis.any() and not whole and margin_px < FAR_PX:
            margin_px = min(2 * margin_px, FAR_PX)
            continue
        top, left = box.top_px - window.top_px, box.left_px - window.left_px
        part = _distance(~dermis)[top : top + box.size.height_px, left : left + box.size.width_px]
        farthest = float(part[inside].max(initial=0))
        if whole or farthest <= margin_px:
            return part
        if margin_px == FAR_PX:
            # What lies nearer than the window's rim is exact; beyond, dermis outside may be nearer than that found.
            far: FloatMap = np.where(part <= margin_px, part, np.maximum(survey.far_px(box), np.float32(margin_px)))
            return far
        margin_px = min(math.ceil(farthest), FAR_PX)


def _distance(outside: BoolMap) -> FloatMap:
    """To the nearest False, px; without one, more than any slide is long."""
    import cv2

    distance: FloatMap = cv2.distanceTransform(outside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance


def _any_in_cells(values: BoolMap, step_px: int) -> BoolMap:
    """(h, w) bool: which cells of ``step_px`` a side hold a True."""
    if step_px == 1:
        return values
    rows = np.logical_or.reduceat(values, np.arange(0, values.shape[0], step_px), axis=0)
    cells: BoolMap = np.logical_or.reduceat(rows, np.arange(0, values.shape[1], step_px), axis=1)
    return cells


def bounding_box(mask: BoolMap) -> Box | None:
    """The smallest box that holds every True of ``mask`` (H, W); None where there is none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)
