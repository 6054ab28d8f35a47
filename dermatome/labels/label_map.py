"""Labels of a slide of any size in little memory: compressed tiles, and only those that hold a label."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box, Size

TILE_PX = 512
"""Side of the tiles, those of the OME-TIFF files too, so that they are compressed once."""

_LEVEL = 3


class LabelMap:
    """(H, W) labels, 0 background, in deflated tiles; a tile without a label takes no memory.

    It is read like an array: ``labels[top:bottom, left:right]`` decodes the tiles touched.

    Attributes:
        size: of the map.
        shape: (H, W).
        dtype: of the labels.
    """

    def __init__(self, size: Size, dtype: npt.DTypeLike = np.int32) -> None:
        """A map without labels."""
        self.size = size
        self.shape = (size.height_px, size.width_px)
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        self._tiles: dict[tuple[int, int], bytes] = {}

    @classmethod
    def of(cls, labels: npt.NDArray[Any]) -> LabelMap:
        """A map of an array (H, W), its type kept."""
        made = cls(Size(*labels.shape), labels.dtype)
        made.write(Box.whole(made.size), labels)
        return made

    def places(self) -> Iterator[tuple[int, int]]:
        """Row and column, counted in tiles, of all tiles, in reading order."""
        for row in range(-(-self.size.height_px // TILE_PX)):
            for column in range(-(-self.size.width_px // TILE_PX)):
                yield row, column

    def box(self, row: int, column: int) -> Box:
        """Where a tile lies, cut to the map."""
        top, left = row * TILE_PX, column * TILE_PX
        return Box(top, left, min(top + TILE_PX, self.size.height_px), min(left + TILE_PX, self.size.width_px))

    def write(self, box: Box, labels: npt.NDArray[Any]) -> None:
        """Puts ``labels`` in a box of the map, and 0 into the rest of the tiles it touches."""
        for row in range(box.top_px // TILE_PX, -(-box.bottom_px // TILE_PX)):
            for column in range(box.left_px // TILE_PX, -(-box.right_px // TILE_PX)):
                tile = self.box(row, column)
                whole = np.zeros((tile.size.height_px, tile.size.width_px), self.dtype)
                here, there = _common(box, tile)
                whole[there] = labels[here]
                self.put(row, column, whole)

    def put(self, row: int, column: int, labels: npt.NDArray[Any]) -> None:
        """Replaces a tile; ``labels`` has the size of its :meth:`box`."""
        self._tiles.pop((row, column), None)
        if labels.any():
            whole = np.zeros((TILE_PX, TILE_PX), self.dtype)
            whole[: labels.shape[0], : labels.shape[1]] = labels
            self._tiles[row, column] = zlib.compress(whole.data, _LEVEL)

    def deflated(self, row: int, column: int) -> bytes | None:
        """A whole tile (512, 512) as a zlib stream; None where it holds no label."""
        return self._tiles.get((row, column))

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[Any]:
        """The labels of rows and columns, with numpy's rules for slices without a step."""
        (top, bottom, down), (left, right, along) = (
            part.indices(side) for part, side in zip(key, self.shape, strict=True)
        )
        if (down, along) != (1, 1):
            raise ValueError("labels of a large slide are read without steps")
        return self.read(Box(top, left, max(top, bottom), max(left, right)))

    def read(self, box: Box) -> npt.NDArray[Any]:
        """The labels in a box of the map."""
        result = np.zeros((box.size.height_px, box.size.width_px), self.dtype)
        for row in range(box.top_px // TILE_PX, -(-box.bottom_px // TILE_PX)):
            for column in range(box.left_px // TILE_PX, -(-box.right_px // TILE_PX)):
                data = self._tiles.get((row, column))
                if data is None:
                    continue
                labels = np.frombuffer(zlib.decompress(data), self.dtype).reshape(TILE_PX, TILE_PX)
                here, tile = _common(box, self.box(row, column))
                result[here] = labels[tile]
        return result

    def bands(self, rows: int = TILE_PX) -> Iterator[npt.NDArray[Any]]:
        """The whole map from above downwards, (``rows``, W) at a time, the last band with what is left."""
        for top in range(0, self.size.height_px, rows):
            yield self.read(Box(top, 0, min(top + rows, self.size.height_px), self.size.width_px))

    def content(self) -> Iterator[bytes]:
        """All that the map holds, as bytes, for a digest: equal maps give equal bytes."""
        yield repr(self.shape).encode()
        for (row, column), data in sorted(self._tiles.items()):
            yield f"{row} {column}".encode()
            yield zlib.decompress(data)

    def whole(self) -> npt.NDArray[Any]:
        """The map as one array (H, W), where it fits into memory."""
        return self.read(Box.whole(self.size))


def _common(one: Box, other: Box) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The rows and columns that two boxes have in common, counted from the corner of each."""
    top, left = max(one.top_px, other.top_px), max(one.left_px, other.left_px)
    bottom, right = min(one.bottom_px, other.bottom_px), min(one.right_px, other.right_px)
    return (
        (slice(top - one.top_px, bottom - one.top_px), slice(left - one.left_px, right - one.left_px)),
        (slice(top - other.top_px, bottom - other.top_px), slice(left - other.left_px, right - other.left_px)),
    )


class RowWriter:
    """Fills a map with rows as they come, from the top, and packs each row of tiles away once it is whole."""

    def __init__(self, labels: LabelMap) -> None:
        """Nothing written yet."""
        self._labels = labels
        self._held: list[npt.NDArray[Any]] = []
        self._row = self._count = 0

    def __call__(self, rows: npt.NDArray[Any]) -> None:
        """Takes the next (n, W) rows."""
        at = 0
        while at < len(rows):
            wanted = min(TILE_PX, self._labels.size.height_px - self._row * TILE_PX) - self._count
            part = rows[at : at + wanted].astype(self._labels.dtype)
            self._held.append(part)
            at, self._count = at + len(part), self._count + len(part)
            if len(part) == wanted:
                self._pack()

    def _pack(self) -> None:
        band = np.concatenate(self._held)
        for column in range(-(-band.shape[1] // TILE_PX)):
            self._labels.put(self._row, column, band[:, column * TILE_PX : (column + 1) * TILE_PX])
        self._held, self._row, self._count = [], self._row + 1, 0
