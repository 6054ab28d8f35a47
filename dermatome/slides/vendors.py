"""Whole-slide images of scanner vendors, read in parts through OpenSlide, and the scale that files state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadImage
from dermatome.geometry import Box, Size
from dermatome.slides.mpp import described_mpp
from dermatome.slides.tiled_tiff import MAX_TILED_SIDE_PX

WSI_SUFFIXES = (".svs", ".ndpi", ".scn", ".bif", ".dcm")
"""Files of slides: Aperio, Hamamatsu, Leica, Ventana; and DICOM, where a slide is a folder of them."""

_CHECK_ROWS = 2048
_LEAST_MPP, _MOST_MPP = 0.05, 20.0
"""What scanners and microscopes have; other figures are the screen's or the printer's."""


class WsiPixels:
    """(H, W, 3) uint8 RGB of a vendor's slide; ``array[top:bottom, left:right]`` decodes only what is touched.

    What a scanner left out is white. Several threads may read at once. The other levels of a DICOM slide are found
    beside the file.

    Attributes:
        path: of the file.
        shape: (H, W, 3).
        dtype: uint8.
        sizes: of the levels, the full one first.
        mpp: microns per pixel as the file states them; None where it does not.
        conversions: what was done to make it RGB, in words: nothing.
    """

    conversions: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            BadImage: OpenSlide cannot read it, or it is longer than
                :data:`~dermatome.slides.tiled_tiff.MAX_TILED_SIDE_PX` on a side.
        """
        import openslide

        self.path = path
        try:
            self._slide: Any = openslide.OpenSlide(path)
            self.sizes = tuple(Size(height, width) for width, height in self._slide.level_dimensions)
            self.mpp = _scale(self._slide.properties)
        except (openslide.OpenSlideError, OSError, ValueError) as error:
            raise BadImage(
                f"{path.name} is no slide that OpenSlide reads ({error}): fetch it again, or export it as OME-TIFF."
            ) from error
        full = self.sizes[0]
        if max(full.height_px, full.width_px) > MAX_TILED_SIDE_PX:
            raise BadImage(
                f"{path.name} is {full.width_px}×{full.height_px} px, over the limit of {MAX_TILED_SIDE_PX} px a side: "
                "export a smaller region."
            )
        self.shape = (full.height_px, full.width_px, 3)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
        """The values of full-resolution rows and columns, with numpy's rules for slices without a step."""
        (top, bottom, down), (left, right, along) = (
            part.indices(side) for part, side in zip(key, self.shape[:2], strict=True)
        )
        if (down, along) != (1, 1):
            raise ValueError("a large image is read without steps: read it at another size")
        return self.read(Box(top, left, max(top, bottom), max(left, right)))

    def level_for(self, shrunk: float) -> int:
        """The coarsest level that is still at least as fine as full resolution shrunk ``shrunk`` times."""
        full = self.sizes[0]
        return max(
            number
            for number, size in enumerate(self.sizes)
            if number == 0 or max(full.height_px / size.height_px, full.width_px / size.width_px) <= shrunk * 1.001
        )

    def read(self, box: Box, level: int = 0) -> npt.NDArray[np.uint8]:
        """(h, w, 3): the values in ``box`` of a level, in that level's pixels.

        Raises:
            BadImage: what is touched is damaged.
        """
        import openslide

        full, own = self.sizes[0], self.sizes[level]
        # OpenSlide takes the corner in pixels of full resolution.
        at = (
            round(box.left_px * full.width_px / own.width_px),
            round(box.top_px * full.height_px / own.height_px),
        )
        try:
            part = np.asarray(self._slide.read_region(at, level, (box.size.width_px, box.size.height_px)))
        except (openslide.OpenSlideError, ValueError, OSError) as error:
            raise BadImage(f"{self.path.name} is damaged ({error}): fetch it again.") from error
        return np.ascontiguousarray(part[..., :3]) if (part[..., 3] == 255).all() else _on_white(part)

    def check(self) -> None:
        """Decodes the coarsest level whole and the others' last pixels, to find a file cut short before work starts.

        Raises:
            BadImage: it is damaged.
        """
        last = len(self.sizes) - 1
        for level, size in enumerate(self.sizes[:last]):
            self.read(Box(size.height_px - 1, size.width_px - 1, size.height_px, size.width_px), level)
        size = self.sizes[last]
        for top in range(0, size.height_px, _CHECK_ROWS):
            self.read(Box(top, 0, min(top + _CHECK_ROWS, size.height_px), size.width_px), last)


def stated_mpp(path: Path) -> float | None:
    """Microns per pixel that a TIFF states in its description or its resolution; None where it states none that can be.

    Raises:
        BadImage: the file is damaged.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            unit, across = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
            per_unit = across.value[0] / across.value[1] if across is not None and all(across.value) else None
            described = described_mpp(page.description, per_unit)
            if described is not None or tiff.is_ome:
                return _plausible(described)
            in_cm = {2: 2.54, 3: 1.0}.get(int(unit.value)) if unit is not None else None
            return _plausible(10_000 * in_cm / per_unit if in_cm and per_unit else None)
    except Exception as error:  # tifffile raises whatever it stumbles over in a damaged file
        raise BadImage(f"{path.name} is damaged or cut short ({error}): fetch it again.") from error


def _scale(properties: Any) -> float | None:
    stated = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
    known = [float(value) for value in stated if value is not None]
    return _plausible(sum(known) / len(known)) if known else None


def _plausible(mpp: float | None) -> float | None:
    return mpp if mpp is not None and _LEAST_MPP <= mpp <= _MOST_MPP else None


def _on_white(part: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    alpha = part[..., 3:].astype(np.float32) / 255
    laid: npt.NDArray[np.uint8] = np.rint(part[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return laid
