"""Overlapping tiles over images of any size, and their seamless blending in memory that does not grow with the image's
height.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadSetting
from dermatome.geometry import Box, Size

Probabilities = npt.NDArray[np.float32]
RowSink = Callable[[int, Probabilities], None]


def tile_starts(length_px: int, tile_px: int, overlap_px: int) -> list[int]:
    """Start positions of tiles along one side, evenly spaced so that neighbours overlap by at least ``overlap_px``.

    The first tile begins at 0 and the last ends at ``length_px``; a side shorter than a tile has one tile that extends
    beyond its end.

    Raises:
        BadSetting: the overlap is negative or not smaller than the tile.
    """
    if not 0 <= overlap_px < tile_px:
        raise BadSetting(f"The tile overlap is {overlap_px} px of {tile_px}: set it from 0 to less than the tile.")
    if length_px <= tile_px:
        return [0]
    count = math.ceil((length_px - overlap_px) / (tile_px - overlap_px))
    last = length_px - tile_px
    return [index * last // (count - 1) for index in range(count)]


def tile_grid(size: Size, tile_px: int, overlap_px: int) -> list[Box]:
    """Square tiles that cover an image of ``size``, row by row; on a side shorter than a tile they extend beyond it.

    Raises:
        BadSetting: see :func:`tile_starts`.
    """
    columns = tile_starts(size.width_px, tile_px, overlap_px)
    return [
        Box(top, left, top + tile_px, left + tile_px)
        for top in tile_starts(size.height_px, tile_px, overlap_px)
        for left in columns
    ]


def cut_tile(pixels: npt.NDArray[np.uint8], box: Box) -> npt.NDArray[np.uint8]:
    """(tile, tile, …): the pixels in ``box``, mirrored where it extends beyond a small image."""
    part = pixels[box.slices]
    below, beside = box.size.height_px - part.shape[0], box.size.width_px - part.shape[1]
    if below or beside:
        # `symmetric` also works if the padding is wider than the image, even for an image of one pixel.
        part = np.pad(part, ((0, below), (0, beside)) + ((0, 0),) * (part.ndim - 2), mode="symmetric")
    return part


def blend_window(tile_px: int) -> npt.NDArray[np.float32]:
    """(tile, tile) float32: weights of a tile's pixels, a raised cosine that falls towards the edges and is positive
    everywhere, so that every pixel has a value.
    """
    ramp = np.sin(np.pi * (np.arange(tile_px) + 0.5) / tile_px) ** 2
    side = np.maximum(ramp, 1e-3)
    window: npt.NDArray[np.float32] = np.outer(side, side).astype(np.float32)
    return window


class Blender:
    """Sums tiles of class probabilities, and passes rows on as soon as no later tile can change them.

    It holds one row of tiles, so memory grows only with the image's width. The result does not depend on how tiles
    are batched, as they are added one by one in the order of the grid.
    """

    def __init__(self, classes: int, size: Size, tile_px: int, sink: RowSink) -> None:
        """Creates a blender for an image of ``size``.

        Args:
            classes: number of classes, C.
            size: size of the image that the tiles cover.
            tile_px: side of the square tiles, px.
            sink: called with the top row and (C, rows, W) float32 probabilities; rows in order, each row once.
        """
        self._size, self._tile_px, self._sink = size, tile_px, sink
        self._window = blend_window(tile_px)
        rows = min(tile_px, size.height_px)
        self._sum = np.zeros((classes, rows, size.width_px), dtype=np.float32)
        self._weight = np.zeros((rows, size.width_px), dtype=np.float32)
        self._top = 0

    def add(self, box: Box, tile: Probabilities) -> None:
        """Adds the (C, tile, tile) probabilities of the tile at ``box``; boxes come in the order of the grid."""
        here, window = self._place(box)
        rows, columns = window.shape
        self._sum[:, *here] += tile[:, :rows, :columns] * window
        self._weight[here] += window

    def add_certain(self, box: Box, labels: Sequence[int]) -> None:
        """Adds a tile at ``box`` in which one class of each head has probability 1 everywhere."""
        here, window = self._place(box)
        for label in labels:
            self._sum[label, *here] += window
        self._weight[here] += window

    def _place(self, box: Box) -> tuple[tuple[slice, slice], npt.NDArray[np.float32]]:
        """The part of the rows held in memory that the tile at ``box`` covers, and its weights, cut to the image."""
        if box.top_px < self._top:
            raise ValueError(f"tile row {box.top_px} came after row {self._top}")
        self._hand_on(box.top_px)
        rows = min(self._tile_px, self._size.height_px - box.top_px)
        columns = min(self._tile_px, self._size.width_px - box.left_px)
        return (slice(0, rows), slice(box.left_px, box.left_px + columns)), self._window[:rows, :columns]

    def close(self) -> None:
        """Passes the remaining rows on."""
        self._hand_on(self._size.height_px)

    def _hand_on(self, until_px: int) -> None:
        done = until_px - self._top
        if done == 0:
            return
        self._sink(self._top, self._sum[:, :done] / self._weight[:done])
        self._sum = np.concatenate([self._sum[:, done:], np.zeros_like(self._sum[:, :done])], axis=1)
        self._weight = np.concatenate([self._weight[done:], np.zeros_like(self._weight[:done])])
        self._top = until_px


class RowEnlarger:
    """Resizes rows of probabilities bilinearly as they arrive, to the rows of a larger (or smaller) image.

    Pixel centres are aligned as in ``cv2.resize``; the result equals that of resizing the whole image at once.
    """

    def __init__(self, source: Size, target: Size, sink: RowSink) -> None:
        """Takes rows of an image of size ``source``; rows of the image at size ``target`` go to ``sink``."""
        self._source, self._target, self._sink = source, target, sink
        middle = (np.arange(target.height_px) + 0.5) * source.height_px / target.height_px - 0.5
        middle = np.clip(middle, 0, source.height_px - 1)
        self._above = np.floor(middle).astype(int)
        self._below = np.minimum(self._above + 1, source.height_px - 1)
        self._share = (middle - self._above).astype(np.float32)
        self._kept: Probabilities | None = None
        self._kept_top = 0
        self._next = 0

    def __call__(self, top: int, rows: Probabilities) -> None:
        """Takes (C, rows, source width) float32 probabilities that begin at row ``top``."""
        if self._source == self._target:
            self._sink(top, rows)
            return
        held = rows if self._kept is None else np.concatenate([self._kept, rows], axis=1)
        held_top = top if self._kept is None else self._kept_top
        end = held_top + held.shape[1]
        ready = int(np.searchsorted(self._below, end))
        for first in range(self._next, ready, 32):
            last = min(first + 32, ready)
            above, below = self._above[first:last] - held_top, self._below[first:last] - held_top
            share = self._share[first:last, None]
            tall = held[:, above] * (1 - share) + held[:, below] * share
            self._sink(first, self._widen(tall))
        self._next = ready
        # Rows above those that the next target row needs are dropped; these may not have arrived yet.
        keep = min(end, int(self._above[ready])) if ready < self._target.height_px else end
        self._kept, self._kept_top = held[:, keep - held_top :].copy(), keep

    def _widen(self, rows: Probabilities) -> Probabilities:
        import cv2

        size = (self._target.width_px, rows.shape[1])
        wide: Probabilities = np.stack([cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in rows])
        return wide
