"""The common interface of large images, however they are stored: pyramid levels that are read in boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadImage
from dermatome.geometry import Box, Size
from dermatome.slides.mpp import Scale

MAX_SIDE_IN_PARTS_PX = 100_000
"""Longest allowed side of an image that is read in parts, px; masks and tables have the same limit."""


class LevelPixels:
    """(H, W, 3) or (H, W) array in a file; ``array[top:bottom, left:right]`` decodes only the parts it needs.

    Several threads may read at once.

    Attributes:
        path: path of the file.
        shape: shape of the full resolution.
        dtype: type of the values.
        sizes: sizes of the levels, the full resolution first.
        conversions: conversions of the pixels to 8-bit RGB, as text.
        scale: scale that the file states.
    """

    conversions: tuple[str, ...] = ()
    scale = Scale()

    def __init__(self, path: Path, sizes: tuple[Size, ...], dtype: npt.DTypeLike, channels: tuple[int, ...]) -> None:
        """Sets the attributes.

        Raises:
            BadImage: a side is longer than :data:`MAX_SIDE_IN_PARTS_PX`.
        """
        self.path, self.sizes, self.dtype = path, sizes, np.dtype(dtype)
        full = sizes[0]
        self.shape: tuple[int, ...] = (full.height_px, full.width_px, *channels)
        if max(full.height_px, full.width_px) > MAX_SIDE_IN_PARTS_PX:
            raise BadImage(
                f"{path.name} is {full.width_px}×{full.height_px} px, over the limit of {MAX_SIDE_IN_PARTS_PX} px a "
                "side: export a smaller region."
            )

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[Any]:
        """Reads full-resolution rows and columns, with numpy's rules for slices without a step."""
        return self.read(Box.of_slices(key, self.sizes[0]))

    def level_for(self, shrunk: float) -> int:
        """The coarsest level that is at least as fine as the full resolution divided by ``shrunk``."""
        full = self.sizes[0]
        return max(
            number
            for number, size in enumerate(self.sizes)
            if number == 0 or max(full.height_px / size.height_px, full.width_px / size.width_px) <= shrunk * 1.001
        )

    def read(self, box: Box, level: int = 0) -> npt.NDArray[Any]:
        """Reads the values in ``box`` of a level; the box is in pixels of that level.

        Raises:
            BadImage: a part is damaged or missing.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Finds damage in the file before work starts.

        Raises:
            BadImage: the file is damaged.
        """
        raise NotImplementedError
