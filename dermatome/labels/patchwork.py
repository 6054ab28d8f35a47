"""A raster of any size of which only the parts that were written to are held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box


class Patchwork:
    """A raster in square patches: what was never written reads as 0 and takes no memory."""

    def __init__(self, side_px: int, dtype: npt.DTypeLike, channels: int | None = None) -> None:
        """An empty raster.

        Args:
            side_px: of the patches.
            dtype: of its values.
            channels: values are (channels, H, W); (H, W) where None.
        """
        self.side_px = side_px
        self._dtype = np.dtype(dtype)
        self._lead = () if channels is None else (channels,)
        self._patches: dict[tuple[int, int], npt.NDArray[np.generic]] = {}

    def read(self, box: Box) -> npt.NDArray[np.generic]:
        """A copy of what ``box`` holds, which may reach beyond all that was written."""
        result = np.zeros((*self._lead, box.size.height_px, box.size.width_px), self._dtype)
        for place, inside, outside in self._parts(box):
            patch = self._patches.get(place)
            if patch is not None:
                result[(..., *outside)] = patch[(..., *inside)]
        return result

    def write(self, box: Box, values: npt.NDArray[np.generic]) -> None:
        """Replaces what ``box`` holds."""
        for place, inside, outside in self._parts(box):
            self._patch(place)[(..., *inside)] = values[(..., *outside)]

    def add(self, box: Box, values: npt.NDArray[np.generic]) -> None:
        """Adds to what ``box`` holds."""
        for place, inside, outside in self._parts(box):
            self._patch(place)[(..., *inside)] += values[(..., *outside)]  # type: ignore[misc]

    def patches(self) -> Iterator[tuple[int, int]]:
        """Row and column, counted in patches, of those held, in reading order."""
        yield from sorted(self._patches)

    def forget_above(self, row_px: int) -> None:
        """Lets go of the patches that end above ``row_px``."""
        for place in [place for place in self._patches if (place[0] + 1) * self.side_px <= row_px]:
            del self._patches[place]

    def _patch(self, place: tuple[int, int]) -> npt.NDArray[np.generic]:
        patch = self._patches.get(place)
        if patch is None:
            patch = self._patches[place] = np.zeros((*self._lead, self.side_px, self.side_px), self._dtype)
        return patch

    def _parts(self, box: Box) -> Iterator[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
        """The patches under ``box``: which, the part of the patch, the part of the box."""
        side = self.side_px
        for row in range(box.top_px // side, -(-box.bottom_px // side)):
            top, bottom = max(box.top_px, row * side), min(box.bottom_px, (row + 1) * side)
            for column in range(box.left_px // side, -(-box.right_px // side)):
                left, right = max(box.left_px, column * side), min(box.right_px, (column + 1) * side)
                part = Box(top, left, bottom, right)
                yield (row, column), _from(part, row * side, column * side), _from(part, box.top_px, box.left_px)


def _from(box: Box, top_px: int, left_px: int) -> tuple[slice, slice]:
    return (
        slice(box.top_px - top_px, box.bottom_px - top_px),
        slice(box.left_px - left_px, box.right_px - left_px),
    )
