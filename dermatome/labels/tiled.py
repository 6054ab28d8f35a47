"""One array type for slides of any size: square tiles. Only tiles with nonzero values use memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import LabelArray
from dermatome.geometry import Box, Size

TILE_PX = 512
"""Default side of a tile, px, and the side of the tiles of OME-TIFF files, into which tiles are copied."""

_LEVEL = 3
Place = tuple[int, int]


class TiledArray:
    """(H, W) or (C, H, W) array in square tiles; values that were never written read as 0.

    Tiles are plain arrays after a write. :meth:`pack` deflates them; writing to a packed tile unpacks it again. The
    array is read like a numpy array: ``labels[top:bottom, left:right]``.

    Attributes:
        size: height and width; None for an array without bounds, which may be written at negative coordinates.
        dtype: type of the values.
        tile_px: side of the tiles, px.
    """

    def __init__(
        self, size: Size | None, dtype: npt.DTypeLike = np.int32, *, tile_px: int = TILE_PX, channels: int | None = None
    ) -> None:
        """Creates an array of zeros."""
        self.size, self.tile_px = size, tile_px
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._lead = () if channels is None else (channels,)
        self._open: dict[Place, npt.NDArray[Any]] = {}
        self._packed: dict[Place, bytes] = {}
        self._appended_px = 0

    @classmethod
    def of(cls, labels: LabelArray, dtype: npt.DTypeLike = None) -> TiledArray:
        """Copies labels (H, W) in memory or in a file into a packed array, in bands; returns a tiled array unchanged.

        Args:
            labels: the labels.
            dtype: type of the copy; None for that of the labels.
        """
        if isinstance(labels, cls):
            return labels
        array = cls(Size(*labels.shape), labels[0:1, 0:1].dtype if dtype is None else dtype)
        for top in range(0, labels.shape[0], TILE_PX):
            array.append(labels[top : min(top + TILE_PX, labels.shape[0]), 0 : labels.shape[1]])
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a bounded array, as in numpy."""
        assert self.size is not None
        return (*self._lead, self.size.height_px, self.size.width_px)

    def read(self, box: Box) -> npt.NDArray[Any]:
        """Returns a copy of the values in ``box``, which may extend beyond the array."""
        values = np.zeros((*self._lead, box.size.height_px, box.size.width_px), self.dtype)
        for place, tile_part, box_part in self._parts(box):
            if place in self._open or place in self._packed:
                values[(..., *box_part)] = self._tile(place)[(..., *tile_part)]
        return values

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[Any]:
        """Returns rows and columns, with numpy's rules for slices without a step."""
        return self.read(Box.of_slices(key, Size(*self.shape[-2:])))

    def whole(self) -> npt.NDArray[Any]:
        """Returns the array as a numpy array."""
        return self[:, :]

    def bands(self) -> Iterator[npt.NDArray[Any]]:
        """Yields all rows from the top, some hundred at a time."""
        for top in range(0, self.shape[-2], TILE_PX):
            yield self[top : top + TILE_PX, :]

    def write(self, box: Box, values: npt.NDArray[Any]) -> None:
        """Replaces the values in ``box``."""
        for place, tile_part, box_part in self._parts(box):
            part = values[(..., *box_part)]
            if part.any() or place in self._open or place in self._packed:
                self._opened(place)[(..., *tile_part)] = part

    def add(self, box: Box, values: npt.NDArray[Any]) -> None:
        """Adds ``values`` to the values in ``box``."""
        for place, tile_part, box_part in self._parts(box):
            self._opened(place)[(..., *tile_part)] += values[(..., *box_part)]

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Writes the next (n, W) rows below the last ones, and packs the tiles that are complete."""
        top, self._appended_px = self._appended_px, self._appended_px + len(rows)
        self.write(Box(top, 0, self._appended_px, rows.shape[1]), rows)
        self.pack(self._appended_px if self._appended_px < self.shape[-2] else None)

    def pack(self, above_px: int | None = None, numbers: npt.NDArray[Any] | None = None) -> None:
        """Deflates open tiles.

        Args:
            above_px: packs only tiles that end at or above this row; None packs all.
            numbers: maps the values of these tiles: each value becomes ``numbers[value]``.
        """
        for place in [p for p in self._open if above_px is None or (p[0] + 1) * self.tile_px <= above_px]:
            tile = self._open.pop(place)
            tile = tile if numbers is None else numbers[tile].astype(self.dtype, copy=False)
            if tile.any():
                self._packed[place] = zlib.compress(tile.data, _LEVEL)

    def renumber(self, numbers: npt.NDArray[Any]) -> None:
        """Replaces each value of the array by ``numbers[value]``."""
        self.pack()
        for place in list(self._packed):
            self._opened(place)
            self.pack(numbers=numbers)

    def forget_above(self, row_px: int) -> None:
        """Drops the tiles that end at or above ``row_px``."""
        for tiles in (self._open, self._packed):
            for place in [p for p in tiles if (p[0] + 1) * self.tile_px <= row_px]:
                del tiles[place]

    def places(self) -> list[Place]:
        """Returns the row and column, in tiles, of each tile with nonzero values, in reading order."""
        return sorted({*self._open, *self._packed})

    def box(self, place: Place) -> Box:
        """Returns the box of a tile, cut to the array."""
        top, left = place[0] * self.tile_px, place[1] * self.tile_px
        return Box(top, left, min(top + self.tile_px, self.shape[-2]), min(left + self.tile_px, self.shape[-1]))

    def deflated(self) -> Iterator[bytes]:
        """Yields every tile of the array, in reading order, as a zlib stream of its (tile_px, tile_px) values."""
        self.pack()
        empty = zlib.compress(bytes(self.dtype.itemsize * self.tile_px**2), 9)
        rows, columns = (-(-side // self.tile_px) for side in self.shape[-2:])
        for row in range(rows):
            for column in range(columns):
                yield self._packed.get((row, column), empty)

    def content(self) -> Iterator[bytes]:
        """Yields the whole content for a digest: equal arrays give equal bytes."""
        self.pack()
        yield repr(self.shape).encode()
        for (row, column), data in sorted(self._packed.items()):
            yield f"{row} {column}".encode()
            yield zlib.decompress(data)

    def _tile(self, place: Place) -> npt.NDArray[Any]:
        tile = self._open.get(place)
        if tile is None:
            side = self.tile_px
            tile = np.frombuffer(zlib.decompress(self._packed[place]), self.dtype).reshape(*self._lead, side, side)
        return tile

    def _opened(self, place: Place) -> npt.NDArray[Any]:
        if place not in self._open:
            if place in self._packed:
                self._open[place] = self._tile(place).copy()
                del self._packed[place]
            else:
                self._open[place] = np.zeros((*self._lead, self.tile_px, self.tile_px), self.dtype)
        return self._open[place]

    def _parts(self, box: Box) -> Iterator[tuple[Place, tuple[slice, slice], tuple[slice, slice]]]:
        """Yields the tiles that overlap ``box``: position, slices in the tile, slices in the box."""
        side = self.tile_px
        for row in range(box.top_px // side, -(-box.bottom_px // side)):
            for column in range(box.left_px // side, -(-box.right_px // side)):
                tile = Box(row * side, column * side, (row + 1) * side, (column + 1) * side)
                part = tile.common(box)
                yield (row, column), part.within(tile).slices, part.within(box).slices
