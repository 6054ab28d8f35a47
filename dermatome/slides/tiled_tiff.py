"""Large TIFF files, of which only the needed parts are decoded: images with pyramid levels, and labels."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadImage
from dermatome.geometry import Box, Size
from dermatome.slides.levels import LevelPixels
from dermatome.slides.mpp import check_interleaved, stated_scale
from dermatome.slides.plain import FIRST_PAGE, GREY_REPEATED, unread_compression

# Each tile or strip is decoded completely: a larger one would not fit bounded memory, and no scanner writes such.
_MAX_PART_PX = 64_000_000
# Enough for a row of tiles of a wide slide, which neighbouring bands share.
_CACHE_BYTES = 128 * 1024 * 1024


class _Level(NamedTuple):
    """One resolution of the image: a page of the file, its size, and the size of its tiles or strips."""

    page: Any
    size: Size
    part: Size

    @property
    def across(self) -> int:
        return -(-self.size.width_px // self.part.width_px)


class TiffParts(LevelPixels):
    """An array in a TIFF file with tiles or strips."""

    _advice = ""

    def __init__(self, path: Path, channels: tuple[int, ...]) -> None:
        """Opens the file and checks that it can be read in parts, without decoding anything.

        Raises:
            BadImage: the file is damaged, truncated, too large, of a kind that cannot be read in parts, turned by its
                orientation tag, or one huge strip.
        """
        import tifffile

        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int], npt.NDArray[Any]] = OrderedDict()
        self._cached_bytes = 0
        try:
            # The file stays open as long as this object; tifffile closes it when it is garbage-collected.
            self._file: Any = tifffile.TiffFile(path)
            first, *others = self._file.series
            self._levels = [_level(level.keyframe) for level in first.levels]
            self._more_pages = bool(others) or len(first.pages) > 1
        except Exception as error:  # tifffile raises many classes of errors for a damaged file
            raise BadImage(f"{path.name} is damaged or cut short ({error}): fetch it again.") from error
        super().__init__(path, tuple(level.size for level in self._levels), self._levels[0].page.dtype, channels)
        for level in self._levels:
            self._check(level)

    def read(self, box: Box, level: int = 0) -> npt.NDArray[Any]:
        """See :meth:`LevelPixels.read`."""
        at = self._levels[level]
        found = np.empty((box.size.height_px, box.size.width_px, *self.shape[2:]), self.dtype)
        if not found.size:
            return found
        tall, wide = at.part.height_px, at.part.width_px
        for row in range(box.top_px // tall, -(-box.bottom_px // tall)):
            for column in range(box.left_px // wide, -(-box.right_px // wide)):
                part = self._part(level, row * at.across + column)
                place = Box.whole(Size(*part.shape[:2])).moved(row * tall, column * wide)
                common = place.common(box)
                found[common.within(box).slices] = part[common.within(place).slices]
        return found

    def check(self) -> None:
        """Decodes every part of the full resolution once."""
        for number in range(len(self._levels[0].page.dataoffsets)):
            self._decode(0, number)

    @staticmethod
    def _readable(page: Any) -> bool:
        raise NotImplementedError

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
        """One tile or strip, (h, w, …), cut to the image."""
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
        except Exception as error:  # each codec has its own classes of errors
            raise BadImage(f"{self.path.name} is damaged in its part {number} ({error}): fetch it again.") from error
        if not self.shape[2:]:
            part = part[..., 0]
        elif part.shape[2] == 1:
            part = np.repeat(part, 3, axis=2)
        found: npt.NDArray[Any] = part
        return found

    def _check(self, level: _Level) -> None:
        import tifffile

        page, part, name = level.page, level.part, self.path.name
        if page.compression not in tifffile.TIFF.DECOMPRESSORS:
            raise unread_compression(page.compression, name)
        if page.imagedepth != 1 or not self._readable(page):
            raise BadImage(
                f"{name} is {page.photometric.name} {page.dtype} with {page.samplesperpixel} channels, which cannot be "
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
    """(H, W, 3) uint8 RGB of a large image; a grey image is repeated into three channels."""

    _advice = "it is too large to be decoded at once, so export it as 8-bit RGB in tiles"

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            BadImage: see :class:`TiffParts`, or the channels are separate pages.
        """
        super().__init__(path, (3,))
        page = self._levels[0].page
        check_interleaved(page.description, page.samplesperpixel, path.name)
        done_by_words = {FIRST_PAGE: self._more_pages, GREY_REPEATED: page.samplesperpixel == 1}
        self.conversions = tuple(words for words, done in done_by_words.items() if done)
        self.scale = stated_scale(path)

    @staticmethod
    def _readable(page: Any) -> bool:
        return bool(
            page.dtype == np.uint8
            and page.samplesperpixel in (1, 3)
            and (page.samplesperpixel == 1 or page.planarconfig == 1)
            and page.photometric.name in ("RGB", "YCBCR", "MINISBLACK")
            # tifffile converts YCbCr to RGB only in JPEG compression.
            and (page.photometric.name != "YCBCR" or "JPEG" in page.compression.name)
        )


class TiledLabels(TiffParts):
    """(H, W) uint8, uint16 or int32 of a mask or map that this package wrote as OME-TIFF."""

    _advice = "use a mask or map that this version wrote"

    def __init__(self, path: Path) -> None:
        """Opens the file."""
        super().__init__(path, ())

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
