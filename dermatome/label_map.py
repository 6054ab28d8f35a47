"""Labels of a slide of any size in little memory: compressed tiles, and only those that hold a label."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box, Size

TILE_PX = 512
"""Side of the tiles, those of the OME-TIFF files too, so that they are compressed once."""

_LEVEL = 3


class LabelMap:
    """(H, W) int32 labels, 0 background, in deflated tiles; a tile without a label takes no memory.

    It is read like an array: ``labels[top:bottom, left:right]`` decodes the tiles touched.

    Attributes:
        size: of the map.
        shape: (H, W).
        dtype: int32.
    """

    def __init__(self, size: Size) -> None:
        """A map without labels."""
        self.size = size
        self.shape = (size.height_px, size.width_px)
        self.dtype = np.dtype(np.int32)
        self._tiles: dict[tuple[int, int], bytes] = {}

    @classmethod
    def of(cls, labels: npt.NDArray[np.int32]) -> LabelMap:
        """A map of an array (H, W)."""
        made = cls(Size(*labels.shape))
        for row, column in made.places():
            box = made.box(row, column)
            made.put(row, column, labels[box.slices])
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

    def put(self, row: int, column: int, labels: npt.NDArray[np.int32]) -> None:
        """Replaces a tile; ``labels`` has the size of its :meth:`box`."""
        self._tiles.pop((row, column), None)
        if labels.any():
            whole = np.zeros((TILE_PX, TILE_PX), np.int32)
            whole[: labels.shape[0], : labels.shape[1]] = labels
            self._tiles[row, column] = zlib.compress(whole.data, _LEVEL)

    def deflated(self, row: int, column: int) -> bytes | None:
        """A whole tile (512, 512) int32 as a zlib stream; None where it holds no label."""
        return self._tiles.get((row, column))

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[np.int32]:
        """The labels of rows and columns, with numpy's rules for slices without a step."""
        (top, bottom, down), (left, right, along) = (
            part.indices(side) for part, side in zip(key, self.shape, strict=True)
        )
        if (down, along) != (1, 1):
            raise ValueError("labels of a large slide are read without steps")
        return self.read(Box(top, left, max(top, bottom), max(left, right)))

    def read(self, box: Box) -> npt.NDArray[np.int32]:
        """The labels in a box of the map."""
        result = np.zeros((box.size.height_px, box.size.width_px), np.int32)
        for row in range(box.top_px // TILE_PX, -(-box.bottom_px // TILE_PX)):
            for column in range(box.left_px // TILE_PX, -(-box.right_px // TILE_PX)):
                data = self._tiles.get((row, column))
                if data is None:
                    continue
                tile = np.frombuffer(zlib.decompress(data), np.int32).reshape(TILE_PX, TILE_PX)
                top, left = row * TILE_PX, column * TILE_PX
                here = Box(
                    max(top, box.top_px), max(left, box.left_px),
                    min(top + TILE_PX, box.bottom_px), min(left + TILE_PX, box.right_px),
                )  # fmt: skip
                result[
                    here.top_px - box.top_px : here.bottom_px - box.top_px,
                    here.left_px - box.left_px : here.right_px - box.left_px,
                ] = tile[here.top_px - top : here.bottom_px - top, here.left_px - left : here.right_px - left]
        return result

    def bands(self, rows: int = TILE_PX) -> Iterator[npt.NDArray[np.int32]]:
        """The whole map from above downwards, (``rows``, W) at a time, the last band with what is left."""
        for top in range(0, self.size.height_px, rows):
            yield self.read(Box(top, 0, min(top + rows, self.size.height_px), self.size.width_px))

    def content(self) -> Iterator[bytes]:
        """All that the map holds, as bytes, for a digest: equal maps give equal bytes."""
        yield repr(self.shape).encode()
        for (row, column), data in sorted(self._tiles.items()):
            yield f"{row} {column}".encode()
            yield zlib.decompress(data)

    def whole(self) -> npt.NDArray[np.int32]:
        """The map as one array (H, W), where it fits into memory."""
        return self.read(Box.whole(self.size))
