"""Whole-slide images of scanner vendors, read in parts through OpenSlide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadImage
from dermatome.geometry import Box, Size
from dermatome.slides.levels import LevelPixels
from dermatome.slides.mpp import openslide_scale, stated_scale

WSI_SUFFIXES = (".svs", ".ndpi", ".scn", ".bif", ".dcm")
"""Suffixes of Aperio, Hamamatsu, Leica and Ventana files, and of DICOM, in which a slide is a folder of files."""

_CHECK_ROWS = 2048


class WsiPixels(LevelPixels):
    """(H, W, 3) uint8 RGB of a vendor's slide; regions that the scanner skipped are white.

    The other levels of a DICOM slide are found in the folder of the file.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            BadImage: OpenSlide cannot read it, it is too large, or its pixels are not square.
        """
        import openslide

        try:
            self._slide: Any = openslide.OpenSlide(path)
            sizes = tuple(Size(height, width) for width, height in self._slide.level_dimensions)
            properties = self._slide.properties
            self.scale = openslide_scale(properties, path.name)
            # OpenSlide does not parse the descriptions of unknown vendors.
            vendor = properties["openslide.vendor"]
            if vendor == "generic-tiff" or (self.scale.mpp is None and vendor != "dicom"):
                stated = stated_scale(path)
                self.scale = stated._replace(objective=stated.objective or self.scale.objective)
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            raise BadImage(
                f"{path.name} is not a slide that OpenSlide reads ({error}): fetch it again, or export OME-TIFF."
            ) from error
        super().__init__(path, sizes, np.uint8, (3,))

    def read(self, box: Box, level: int = 0) -> npt.NDArray[np.uint8]:
        """See :meth:`LevelPixels.read`."""
        import openslide

        full, own = self.sizes[0], self.sizes[level]
        # OpenSlide expects the corner in full-resolution pixels.
        at = (round(box.left_px * full.width_px / own.width_px), round(box.top_px * full.height_px / own.height_px))
        try:
            part = np.asarray(self._slide.read_region(at, level, (box.size.width_px, box.size.height_px)))
        except (openslide.OpenSlideError, ValueError, OSError) as error:
            raise BadImage(f"{self.path.name} is damaged ({error}): fetch it again.") from error
        return np.ascontiguousarray(part[..., :3]) if (part[..., 3] == 255).all() else _on_white(part)

    def check(self) -> None:
        """Decodes all of the coarsest level and the last pixel of the others, which shows that a file is truncated."""
        last = len(self.sizes) - 1
        for level, size in enumerate(self.sizes[:last]):
            self.read(Box(size.height_px - 1, size.width_px - 1, size.height_px, size.width_px), level)
        size = self.sizes[last]
        for top in range(0, size.height_px, _CHECK_ROWS):
            self.read(Box(top, 0, min(top + _CHECK_ROWS, size.height_px), size.width_px), last)


def _on_white(part: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    alpha = part[..., 3:].astype(np.float32) / 255
    laid: npt.NDArray[np.uint8] = np.rint(part[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return laid
