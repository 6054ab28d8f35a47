"""The depth of all epidermis of a slide of any size, block by block, without the pieces that have no dermis near."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import TissueClass
from dermatome.geometry import Box, Size
from dermatome.labels.tiled import TILE_PX
from dermatome.skin.layers.depth import BoolMap, FloatMap, Mask, Survey, distance_from_dermis
from dermatome.slides.tiled_tiff import TiledLabels

BLOCK_PX = 8 * TILE_PX
"""Side of a block: a tissue core is one, and what a block needs around it stays under half a gigabyte."""


@dataclass(frozen=True)
class DepthBlock:
    """A part of the slide with epidermis in it.

    Attributes:
        box: of the slide.
        inside: (h, w) bool, its epidermis, without pieces that have no dermis near them.
        distance_px: (h, w) float32, from the dermis; only the values of the epidermis are sure.
    """

    box: Box
    inside: BoolMap
    distance_px: FloatMap


class Depths:
    """The distance from the dermis of all epidermis that has dermis near it, block by block.

    A piece of epidermis (8-connected, however many blocks it lies in) is left out where even its nearest pixel is
    farther from dermis than a limit.

    Attributes:
        kept_px: pixels of epidermis that are not left out.
        farthest_px: the largest distance among them; 0 where there is none.
    """

    def __init__(
        self,
        tissue_mask: Mask | TiledLabels,
        survey: Survey,
        max_gap_px: float,
        on_block: Callable[[], object] = lambda: None,
    ) -> None:
        """Goes through all blocks once, to find out which pieces are near dermis.

        Args:
            tissue_mask: (H, W) uint8 of :class:`~dermatome.classes.TissueClass`; an array or what is read like one.
            survey: of that mask, with epidermis in it.
            max_gap_px: the limit.
            on_block: called before a block is measured, here and in :meth:`blocks`; may raise to end it.
        """
        self._mask, self._survey, self._gap_px, self._on_block = tissue_mask, survey, max_gap_px, on_block
        self._last: tuple[Box, BoolMap, FloatMap] | None = None
        pieces = _Pieces()
        self._blocks: list[tuple[Box, slice]] = []
        for place, block in _grid(survey.size):
            box = survey.cells_box(survey.epidermis, block)
            if box is None:
                continue
            inside, distance_px = self._measured(box)
            if inside.any():
                labels, count = self._labelled(inside, distance_px)
                self._blocks.append((box, pieces.add(place, block, box, labels, count, distance_px)))
        self._kept, self.kept_px, self.farthest_px = pieces.near(max_gap_px)

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

    def _measured(self, box: Box) -> tuple[BoolMap, FloatMap]:
        """The epidermis in a box and its distances; the last are kept, as most slides have one block."""
        if self._last is None or self._last[0] != box:
            self._on_block()
            inside = np.asarray(self._mask[box.slices] == TissueClass.EPIDERMIS, bool)
            self._last = box, inside, distance_from_dermis(self._mask, box, self._survey)
        return self._last[1:]

    def _labelled(self, inside: BoolMap, distance_px: FloatMap) -> tuple[npt.NDArray[Any], int]:
        """The number of each pixel's piece in this box, and how many there are; where all are near, one for all."""
        import cv2

        if float(distance_px[inside].max()) <= self._gap_px:
            return inside.view(np.uint8), 1
        count, labels = cv2.connectedComponents(inside.view(np.uint8), connectivity=8)
        return labels, count - 1


class _Pieces:
    """Pieces of epidermis, numbered from 0 over all blocks, and which of them are one over the borders of blocks."""

    def __init__(self) -> None:
        self._count = 0
        self._facts: list[npt.NDArray[np.float64]] = []
        self._edges: dict[tuple[int, int], dict[str, npt.NDArray[np.int64]]] = {}

    def add(
        self,
        place: tuple[int, int],
        block: Box,
        box: Box,
        labels: npt.NDArray[Any],
        count: int,
        distance_px: FloatMap,
    ) -> slice:
        """Takes the pieces 1..``count`` in a ``box`` of the block at ``place``; returns their numbers."""
        inside = labels > 0
        number, distances = labels[inside] - 1, distance_px[inside]
        facts = np.zeros((3, count))  # pixels, smallest and largest distance
        facts[1] = np.inf
        facts[0] = np.bincount(number, minlength=count)
        np.minimum.at(facts[1], number, distances)
        np.maximum.at(facts[2], number, distances)
        self._facts.append(facts)
        height, width = block.size.height_px, block.size.width_px
        rows = slice(box.top_px - block.top_px, box.bottom_px - block.top_px)
        columns = slice(box.left_px - block.left_px, box.right_px - block.left_px)
        edges = {}
        for name, length, part, touches, values in (
            ("top", width, columns, box.top_px == block.top_px, labels[0]),
            ("bottom", width, columns, box.bottom_px == block.bottom_px, labels[-1]),
            ("left", height, rows, box.left_px == block.left_px, labels[:, 0]),
            ("right", height, rows, box.right_px == block.right_px, labels[:, -1]),
        ):
            edge = np.full(length, -1)
            if touches:
                edge[part] = np.where(values > 0, values.astype(np.int64) - 1 + self._count, -1)
            edges[name] = edge
        self._edges[place] = edges
        first, self._count = self._count, self._count + count
        return slice(first, self._count)

    def near(self, max_gap_px: float) -> tuple[BoolMap, int, float]:
        """Which pieces have a pixel that near, themselves or where they go on; their pixels, the largest distance."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        if not self._count:
            return np.zeros(0, bool), 0, 0.0
        pairs = np.concatenate([np.zeros((2, 0), np.int64), *self._touching()], axis=1)
        graph = coo_array((np.ones(pairs.shape[1], bool), tuple(pairs)), shape=(self._count, self._count))
        _, whole = connected_components(graph, directed=False)
        area, nearest, farthest = np.concatenate(self._facts, axis=1)
        near = np.zeros(self._count, bool)
        near[whole[nearest <= max_gap_px]] = True
        kept: BoolMap = near[whole]
        return kept, int(area[kept].sum()), float(farthest[kept].max(initial=0))

    def _touching(self) -> Iterator[npt.NDArray[np.int64]]:
        """(2, N) numbers of pieces of neighbouring blocks that touch, by an edge or a corner of a pixel."""
        for (row, column), edges in self._edges.items():
            below, right = self._edges.get((row + 1, column)), self._edges.get((row, column + 1))
            if below is not None:
                yield from _facing(edges["bottom"], below["top"])
            if right is not None:
                yield from _facing(edges["right"], right["left"])
            for across, end in ((1, -1), (-1, 0)):
                corner = self._edges.get((row + 1, column + across))
                if corner is not None:
                    yield _both(edges["bottom"][[end]], corner["top"][[-1 - end]])


def _facing(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    yield _both(one, other)
    yield _both(one[1:], other[:-1])
    yield _both(one[:-1], other[1:])


def _both(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    pairs = np.stack([one, other])
    found: npt.NDArray[np.int64] = np.unique(pairs[:, (pairs >= 0).all(axis=0)], axis=1)
    return found


def _grid(size: Size) -> Iterator[tuple[tuple[int, int], Box]]:
    for row, top in enumerate(range(0, size.height_px, BLOCK_PX)):
        for column, left in enumerate(range(0, size.width_px, BLOCK_PX)):
            bottom, right = min(top + BLOCK_PX, size.height_px), min(left + BLOCK_PX, size.width_px)
            yield (row, column), Box(top, left, bottom, right)
