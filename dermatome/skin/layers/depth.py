"""Depth in the epidermis: the distance of its pixels from the dermis, block by block, and the layer that follows.

No large slide is held in memory at full resolution. Distances up to 2,048 px are exact. The distance of a pixel farther
from any dermis than that, which usually belongs to a detached piece, is read from a map of the slide with at most
8,192 px per side: exact on a slide no larger than that, and within 1 % on one of up to 100,000 px.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import BoolMap, Floats, LabelArray, TissueClass
from dermatome.geometry import Box, Size
from dermatome.labels.pieces import Pieces
from dermatome.labels.tiled import TILE_PX

BLOCK_PX = 8 * TILE_PX
"""Side of a block, px: a tissue core is one block, and a block with its margin needs less than half a gigabyte."""

FAR_PX = 2048
"""Margin around a block, px, in which dermis is searched at full resolution."""
COARSE_SIDE_PX = 8192
"""Longest side of the map of the whole slide, px."""


def number_layers(distance_px: Floats, thickness_px: float) -> npt.NDArray[np.uint16]:
    """The layer of each distance: ``ceil(distance / thickness)``, at least 1.

    A distance within a millionth of a border counts as on it, so that a multiple of the thickness in floating-point
    numbers does not begin an additional layer.
    """
    exact = distance_px.astype(np.float64) / thickness_px
    number: npt.NDArray[np.uint16] = np.maximum(np.ceil(exact * (1 - 1e-6)), 1).astype(np.uint16)
    return number


class Survey:
    """The places of epidermis and dermis on a slide, on a grid with at most 8,192 cells per side.

    Attributes:
        size: size of the slide.
        step_px: side of a grid cell, px.
        epidermis: (h, w) bool, grid cells with a pixel of epidermis.
        dermis: (h, w) bool, grid cells with a pixel of dermis.
        epidermis_px: number of pixels of epidermis.
        tissue: box of the grid cells with any tissue, on the slide; None if there are none.
    """

    def __init__(self, tissue_mask: LabelArray) -> None:
        """Reads the mask in one pass, in bands of rows."""
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
        self._far_px: Floats | None = None

    def cells_box(self, cells: BoolMap, within: Box) -> Box | None:
        """The smallest box on the slide with all True grid cells that ``within`` touches, cut to ``within``."""
        step = self.step_px
        top, left = within.top_px // step, within.left_px // step
        box = Box.around(cells[top : -(-within.bottom_px // step), left : -(-within.right_px // step)])
        if box is None:
            return None
        return Box(
            max(within.top_px, (top + box.top_px) * step),
            max(within.left_px, (left + box.left_px) * step),
            min(within.bottom_px, (top + box.bottom_px) * step),
            min(within.right_px, (left + box.right_px) * step),
        )

    def far_px(self, box: Box) -> Floats:
        """(h, w) float32, px: distance from the grid cell of each pixel of ``box`` to the nearest one with dermis."""
        if self._far_px is None:
            self._far_px = _distance(~self.dermis) * np.float32(self.step_px)
        rows, columns = (np.arange(part.start, part.stop) // self.step_px for part in box.slices)
        far: Floats = self._far_px[rows[:, None], columns]
        return far


@dataclass(frozen=True)
class DepthBlock:
    """A part of the slide with epidermis.

    Attributes:
        box: place of the part on the slide.
        inside: (h, w) bool, its epidermis, without pieces that have no dermis near them.
        distance_px: (h, w) float32, distance from the dermis; valid only inside the epidermis.
    """

    box: Box
    inside: BoolMap
    distance_px: Floats


class Depths:
    """The distance from the dermis of all epidermis that has dermis near it, block by block.

    A piece of epidermis (8-connected, also across blocks) is left out if even its nearest pixel is farther from dermis
    than a limit.

    Attributes:
        kept_px: number of pixels of epidermis that are not left out.
        farthest_px: largest distance among them, px; 0 if there are none.
    """

    def __init__(
        self,
        tissue_mask: LabelArray,
        survey: Survey,
        max_gap_px: float,
        on_block: Callable[[], object] = lambda: None,
    ) -> None:
        """Measures all blocks once, to find the pieces that are near dermis.

        Args:
            tissue_mask: (H, W) uint8 of :class:`~dermatome.classes.TissueClass`; an array or an object like one.
            survey: survey of that mask; it must contain epidermis.
            max_gap_px: the limit, px.
            on_block: called before each block is measured, here and in :meth:`blocks`; may raise to stop.
        """
        self._mask, self._survey, self._gap_px, self._on_block = tissue_mask, survey, max_gap_px, on_block
        self._last: tuple[Box, BoolMap, Floats] | None = None
        pieces = Pieces(survey.size, connectivity=8)
        self._blocks: list[tuple[Box, slice]] = []
        facts = [np.zeros((3, 0))]  # pixels, smallest and largest distance of each piece
        for block in Box.whole(survey.size).blocks(BLOCK_PX):
            box = survey.cells_box(survey.epidermis, block)
            if box is None:
                continue
            inside, distance_px = self._measured(box)
            if inside.any():
                labels, count = self._labelled(inside, distance_px)
                first = pieces.add(box, labels, count)
                self._blocks.append((box, slice(first, first + count)))
                facts.append(_facts(labels[inside] - 1, distance_px[inside], count))
        area, nearest, farthest = np.concatenate(facts, axis=1)
        roots = pieces.roots()
        near = np.zeros(len(roots), bool)
        near[roots[1:][nearest <= max_gap_px]] = True
        self._kept = near[roots[1:]]
        self.kept_px = int(area[self._kept].sum())
        self.farthest_px = float(farthest[self._kept].max(initial=0))

    def blocks(self) -> Iterator[DepthBlock]:
        """The parts of the slide with epidermis that is not left out, in reading order."""
        for box, numbers in self._blocks:
            kept = self._kept[numbers]
            if not kept.any():
                continue
            inside, distance_px = self._measured(box)
            if not kept.all():
                labels, _ = self._labelled(inside, distance_px)
                inside = np.concatenate([[False], kept])[labels]
            yield DepthBlock(box, inside, distance_px)

    def _measured(self, box: Box) -> tuple[BoolMap, Floats]:
        """The epidermis in a box and its distances; the last result is cached, as most slides have one block."""
        if self._last is None or self._last[0] != box:
            self._on_block()
            inside = np.asarray(self._mask[box.slices] == TissueClass.EPIDERMIS, bool)
            self._last = box, inside, distance_from_dermis(self._mask, box, self._survey)
        return self._last[1:]

    def _labelled(self, inside: BoolMap, distance_px: Floats) -> tuple[npt.NDArray[Any], int]:
        """The number of each pixel's piece in this box, and the number of pieces; if all are near, one for all."""
        import cv2

        if float(distance_px[inside].max()) <= self._gap_px:
            return inside.view(np.uint8), 1
        count, labels = cv2.connectedComponents(inside.view(np.uint8), connectivity=8)
        return labels, count - 1


def distance_from_dermis(tissue_mask: LabelArray, box: Box, survey: Survey) -> Floats:
    """The distance of each pixel of epidermis in ``box`` to the nearest pixel of dermis, anywhere on the slide.

    Works in a window around the box, not on the whole slide: if the window extends beyond the box by the farthest
    distance found in it, no nearer dermis can lie outside.

    Returns:
        (h, w) float32, px; valid only inside the epidermis.
    """
    part, sure_px = _nearest(tissue_mask, box, survey.size, lambda mask: mask == TissueClass.DERMIS)
    inside = tissue_mask[box.slices] == TissueClass.EPIDERMIS
    if float(part[inside].max(initial=0)) <= sure_px:
        return part
    far: Floats = np.where(part <= sure_px, part, np.maximum(survey.far_px(box), np.float32(sure_px)))
    return far


def relative_depth(tissue_mask: LabelArray, block: DepthBlock, size: Size) -> Floats:
    """Relative depth of the epidermis of a block: 0 at the dermis, 1 at the upper edge of the living epidermis.

    It is d / (d + s), with d the distance from the border with the dermis and s the distance to the nearest keratin or
    background, both in straight lines.

    Returns:
        (N,) float32 for the pixels ``block.inside``; NaN if no upper edge is within 2,048 px.
    """
    part, sure_px = _nearest(
        tissue_mask, block.box, size, lambda mask: (mask == TissueClass.BACKGROUND) | (mask == TissueClass.KERATIN)
    )
    from_px, to_px = block.distance_px[block.inside], part[block.inside]
    # Distances are between pixel centres; the borders are half a pixel nearer.
    relative: Floats = (from_px - 0.5) / (from_px + to_px - 1)
    return np.where(to_px <= sure_px, relative, np.float32(np.nan))


def _nearest(
    tissue_mask: LabelArray, box: Box, size: Size, is_target: Callable[[npt.NDArray[Any]], BoolMap]
) -> tuple[Floats, float]:
    """The distance of each pixel of ``box`` to the nearest target, px, and the distance up to which it is exact, px.

    Valid only inside the epidermis. If the window contains no target, no distance is exact.
    """
    inside = tissue_mask[box.slices] == TissueClass.EPIDERMIS
    margin_px = 64
    while True:
        window = box.expanded(margin_px, size)
        target = is_target(tissue_mask[window.slices])
        whole, some = window == Box.whole(size), bool(target.any())
        if not some and not whole and margin_px < FAR_PX:
            margin_px = min(2 * margin_px, FAR_PX)
            continue
        top, left = box.top_px - window.top_px, box.left_px - window.left_px
        part = _distance(~target)[top : top + box.size.height_px, left : left + box.size.width_px]
        farthest = float(part[inside].max(initial=0))
        if whole:
            return part, math.inf if some else 0.0
        if farthest <= margin_px or margin_px == FAR_PX:
            # Beyond this distance, a target outside of the window may be nearer than the one found.
            return part, float(margin_px)
        margin_px = min(math.ceil(farthest), FAR_PX)


def _distance(outside: BoolMap) -> Floats:
    """Distance to the nearest False, px; if there is none, more than the length of any slide."""
    import cv2

    distance: Floats = cv2.distanceTransform(outside.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return distance


def _any_in_cells(values: BoolMap, step_px: int) -> BoolMap:
    """(h, w) bool: grid cells with a side of ``step_px`` that contain a True."""
    if step_px == 1:
        return values
    rows = np.logical_or.reduceat(values, np.arange(0, values.shape[0], step_px), axis=0)
    cells: BoolMap = np.logical_or.reduceat(rows, np.arange(0, values.shape[1], step_px), axis=1)
    return cells


def _facts(number: npt.NDArray[Any], distance_px: Floats, count: int) -> npt.NDArray[np.float64]:
    """(3, count): number of pixels, smallest and largest distance of each number."""
    facts = np.zeros((3, count))
    facts[1] = np.inf
    facts[0] = np.bincount(number, minlength=count)
    np.minimum.at(facts[1], number, distance_px)
    np.maximum.at(facts[2], number, distance_px)
    return facts
