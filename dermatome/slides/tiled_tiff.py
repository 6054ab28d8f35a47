"""Large TIFFs, decoded only where they are read: images, with the levels of a pyramid, and labels."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadImage
from dermatome.geometry import Box, Size
from dermatome.slides.mpp import check_interleaved
from dermatome.slides.pixel_types import FIRST_PAGE, GREY_REPEATED

MAX_TILED_SIDE_PX = 100_000
"""Only tiles are decoded, so a side may be this long; beyond it, masks and tables are not made for such slides."""

# A tile or strip is decoded whole: a larger one would not be bounded memory, and no scanner writes such.
_MAX_PART_PX = 64_000_000
# Enough for a row of tiles of a wide slide, which neighbouring bands of rows share.
_CACHE_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class _Level:
    """One resolution of the image: a page of the file and how its parts lie."""

    page: Any
    size: Size
    part: Size

    @property
    def across(self) -> int:
        return -(-self.size.width_px // self.part.width_px)


class TiffParts:
    """An array in a TIFF file of tiles or strips; ``array[top:bottom, left:right]`` decodes only the parts touched.

    Several threads may read at once.

    Attributes:
        path: of the file.
        shape: (H, W) or (H, W, 3).
        dtype: of its values.
        sizes: of the levels, the full one first.
    """

    def __init__(self, path: Path, channels: tuple[int, ...]) -> None:
        """Opens the file and checks that it can be read this way; decodes nothing.

        Raises:
            BadImage: damaged or cut short, longer than :data:`MAX_TILED_SIDE_PX` on a side, of a kind that is not read
                in parts, turned by its orientation, or one huge strip.
        """
        import tifffile

        self.path = path
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], npt.NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        try:
            # The handle lives as long as these pixels; tifffile closes it when they are dropped.
            self._file: Any = tifffile.TiffFile(path)
            first, *others = self._file.series
            self._levels = [_level(level.keyframe) for level in first.levels]
            self._more_pages = bool(others) or len(first.pages) > 1
        except Exception as error:  # tifffile raises whatever it stumbles over in a damaged file
            raise BadImage(f"{path.name} is damaged or cut short ({error}): fetch it again.") from error
        full = self._levels[0].size
        if max(full.height_px, full.width_px) > MAX_TILED_SIDE_PX:
            raise BadImage(
                f"{path.name} is {full.width_px}×{full.height_px} px, over the limit of {MAX_TILED_SIDE_PX} px a side: "
                "export a smaller region."
            )
        for level in self._levels:
            self._check(level)
        self.dtype: np.dtype[Any] = np.dtype(self._levels[0].page.dtype)
        self.shape: tuple[int, ...] = (full.height_px, full.width_px, *channels)
        self.sizes = tuple(level.size for level in self._levels)

    def __getitem__(self, key: tuple[slice, slice]) -> npt.NDArray[Any]:
        """The values of full-resolution rows and columns, with numpy's rules for slices without a step."""
        (top, bottom, down), (left, right, along) = (
            part.indices(side) for part, side in zip(key, self.shape[:2], strict=True)
        )
        if (down, along) != (1, 1):
            raise ValueError("a large image is read without steps: read it at another size")
        return self.read(Box(top, left, max(top, bottom), max(left, right)))

    def read(self, box: Box, level: int = 0) -> npt.NDArray[Any]:
        """(h, w, …): the values in ``box`` of a level, in that level's pixels.

        Raises:
            BadImage: a part is damaged or missing.
        """
        at = self._levels[level]
        found = np.empty((box.size.height_px, box.size.width_px, *self.shape[2:]), self.dtype)
        if not found.size:
            return found
        for row in range(box.top_px // at.part.height_px, -(-box.bottom_px // at.part.height_px)):
            for column in range(box.left_px // at.part.width_px, -(-box.right_px // at.part.width_px)):
                part = self._part(level, row * at.across + column)
                top, left = row * at.part.height_px, column * at.part.width_px
                first, last = max(top, box.top_px), min(top + part.shape[0], box.bottom_px)
                start, end = max(left, box.left_px), min(left + part.shape[1], box.right_px)
                found[first - box.top_px : last - box.top_px, start - box.left_px : end - box.left_px] = part[
                    first - top : last - top, start - left : end - left
                ]
        return found

    def check(self) -> None:
        """Decodes every part of the full resolution once, so that a damaged one is found before work starts.

        Raises:
            BadImage: a part is damaged or missing.
        """
        for number in range(len(self._levels[0].page.dataoffsets)):
            self._decode(0, number)

    _advice = ""

    @staticmethod
    def _readable(page: Any) -> bool:
        raise NotImplementedError

    def level_for(self, shrunk: float) -> int:
        """The coarsest level that is still at least as fine as full resolution shrunk ``shrunk`` times."""
        full = self._levels[0].size
        fits = [
            number
            for number, level in enumerate(self._levels)
            if max(full.height_px / level.size.height_px, full.width_px / level.size.width_px) <= shrunk * 1.001
        ]
        return max(fits, default=0)

    def _part(self, level: int, number: int) -> npt.NDArray[Any]:
        with self._lock:
            part = self._cache.get((level, number))
            if part is not None:
                self._cache.move_to_end((level, number))
                return part
        part = self._decode(level, number)
        with self._lock:
            if (level, number) not in self._cache:
                self._cache[level, number] = part
                self._cached_bytes += part.nbytes
            while self._cached_bytes > _CACHE_BYTES:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return part

    def _decode(self, level: int, number: int) -> npt.NDArray[Any]:
        """(h, w, …): one tile or strip, cut to the image."""
        page = self._levels[level].page
        try:
            with self._lock:
                handle = self._file.filehandle
                handle.seek(page.dataoffsets[number])
                data = handle.read(page.databytecounts[number])
            decoded, _, (_, height_px, width_px, _) = page.decode(
                data, number, jpegtables=page.jpegtables, jpegheader=page.jpegheader
            )
            if decoded is None:
                raise ValueError("it is empty")
            part = decoded[0, :height_px, :width_px]
            if part.dtype != self.dtype or part.shape[:2] != (height_px, width_px):
                raise ValueError(f"it holds {part.shape} {part.dtype}")
        except Exception as error:  # each codec has errors of its own
            raise BadImage(f"{self.path.name} is damaged in its part {number} ({error}): fetch it again.") from error
        if not self.shape[2:]:
            part = part[..., 0]
        elif part.shape[2] == 1:
            part = np.repeat(part, 3, axis=2)
        found: npt.NDArray[Any] = part
        return found

    def _check(self, level: _Level) -> None:
        page, part, name = level.page, level.part, self.path.name
        if page.imagedepth != 1 or not self._readable(page):
            raise BadImage(
                f"{name} holds {page.photometric.name} {page.dtype} in {page.samplesperpixel} channels, which is not "
                f"read in parts: {self._advice}."
            )
        turned = page.tags.get(274)
        if turned is not None and turned.value != 1:
            raise BadImage(f"{name} is too large to be turned as its orientation says: export it upright.")
        if part.area_px > _MAX_PART_PX:
            raise BadImage(f"{name} is stored in parts of {part.area_px / 1e6:.0f} megapixels: export it in tiles.")
        wanted = level.across * -(-level.size.height_px // part.height_px)
        end = max((o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)
        if len(page.dataoffsets) != wanted or min(page.databytecounts) == 0 or end > self.path.stat().st_size:
            raise BadImage(f"{name} is damaged or cut short (not all of its {wanted} parts are there): fetch it again.")


class TiledPixels(TiffParts):
    """(H, W, 3) uint8 RGB of a large image; see :class:`TiffParts`.

    Attributes:
        conversions: what was done to make it RGB, in words.
    """

    _advice = "it is too large to be decoded whole, so export it as 8-bit RGB in tiles"

    def __init__(self, path: Path) -> None:
        """Opens the file; a grey one is repeated into three channels.

        Raises:
            BadImage: see :class:`TiffParts`; or its channels are pages of their own.
        """
        super().__init__(path, (3,))
        page = self._levels[0].page
        check_interleaved(page.description, page.samplesperpixel, path.name)
        said = {FIRST_PAGE: self._more_pages, GREY_REPEATED: page.samplesperpixel == 1}
        self.conversions = tuple(words for words, done in said.items() if done)

    @staticmethod
    def _readable(page: Any) -> bool:
        return bool(
            page.dtype == np.uint8
            and page.samplesperpixel in (1, 3)
            and (page.samplesperpixel == 1 or page.planarconfig == 1)
            and page.photometric.name in ("RGB", "YCBCR", "MINISBLACK")
            # tifffile turns YCbCr into RGB where it is JPEG only.
            and (page.photometric.name != "YCBCR" or "JPEG" in page.compression.name)
        )


class TiledLabels(TiffParts):
    """(H, W) uint8, uint16 or int32 of a mask or map that this package wrote as OME-TIFF; see :class:`TiffParts`."""

    _advice = "use a mask or map that this version wrote"

    def __init__(self, path: Path) -> None:
        """Opens the file."""
        super().__init__(path, ())

    @property
    def size(self) -> Size:
        """Height and width, px."""
        return Size(*self.shape)

    @staticmethod
    def _readable(page: Any) -> bool:
        return page.samplesperpixel == 1 and page.dtype in (np.uint8, np.uint16, np.int32)


def _level(page: Any) -> _Level:
    size = Size(page.imagelength, page.imagewidth)
    part = (
        Size(page.tilelength, page.tilewidth)
        if page.is_tiled
        else Size(min(page.rowsperstrip, size.height_px), size.width_px)
    )
    return _Level(page, size, part)
