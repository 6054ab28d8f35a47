"""A slide: RGB pixels with a declared scale, read from an untrusted file in bounded memory, guessing nothing.

Small images lie in memory. A large TIFF is read in parts: what works on any slide asks for regions and rows, and never
for all of its pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dermatome.errors import BadImage, BadSetting, MissingInput
from dermatome.geometry import Box, Size
from dermatome.slides.dicom import slide_files
from dermatome.slides.pixel_types import FIRST_PAGE, as_rgb, check_whole, unidentified
from dermatome.slides.tiled_tiff import TiledPixels
from dermatome.slides.vendors import WSI_SUFFIXES, WsiPixels, stated_mpp
from dermatome.storage.files import sha256_bytes, sha256_file

RgbImage = npt.NDArray[np.uint8]

# Pillow's own limit is a guess at what is a decompression bomb; `max_side_px` is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
DECLARED_MPP = 0.5
MAX_SIDE_PX = 20_000
MAX_FILE_BYTES = 512 * 1024 * 1024
"""Of an image that is decoded whole."""
WHOLE_PX = 8192 * 8192
"""A TIFF of more pixels is read in parts."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BLOCK_ROWS = 128
_READ_PX = 1 << 24
"""A band that shrinks from more pixels than that is averaged as it is read."""


class MppSource(StrEnum):
    """Where a slide's microns per pixel come from."""

    DECLARED = "declared"
    FILE = "file"


@dataclass(frozen=True)
class Slide:
    """One image at level 0.

    Attributes:
        name: the file's stem, the folder's name of a DICOM slide, or a slide id.
        pixels: (H, W, 3) uint8 RGB, in memory, or read in parts where they are touched: slices work on either, and
            :meth:`region` gives any part at any scale.
        mpp: microns per pixel.
        mpp_source: whether a person declared ``mpp`` or the file states it.
        sha256: of the file's bytes; of a slide of several files, of all that its pixels lie in.
        conversions: what was done to make it 8-bit RGB, in words; empty for an RGB file.
    """

    name: str
    pixels: RgbImage | TiledPixels | WsiPixels
    mpp: float
    mpp_source: MppSource
    sha256: str
    conversions: tuple[str, ...] = ()

    @property
    def size(self) -> Size:
        """Height and width, px."""
        return Size(*self.pixels.shape[:2])

    @property
    def mpp_note(self) -> str:
        """The scale and where it comes from, in words, for figures."""
        source = "declared, not measured" if self.mpp_source is MppSource.DECLARED else "stated by the file"
        return f"µm from {self.mpp:g} µm/px ({source})"

    def whole(self) -> RgbImage:
        """All of its pixels, in memory.

        Raises:
            BadImage: it is read in parts because it does not fit there.
        """
        if not isinstance(self.pixels, np.ndarray):
            raise BadImage(f"{self.name} is too large to be taken into memory whole: export a smaller region of it.")
        return self.pixels

    def region(self, box: Box, size: Size) -> RgbImage:
        """The part in ``box`` (level-0 pixels) at ``size``: averaged where it shrinks, bilinear where it grows.

        Memory for the answer and a few rows: the part may be the whole of a large slide. A level of a pyramid is used
        where there is one fine enough.
        """
        return np.concatenate(list(self.rows(box, size)))

    def rows(self, box: Box, size: Size) -> Iterator[RgbImage]:
        """:meth:`region` in bands of rows from top to bottom, (rows, w, 3) each."""
        pixels, level = self.pixels, 0
        if not isinstance(pixels, np.ndarray) and size.area_px < box.size.area_px:
            shrunk = min(box.size.height_px / size.height_px, box.size.width_px / size.width_px)
            level = pixels.level_for(shrunk)
            box = box.rescaled(self.size, pixels.sizes[level])
        per_row = box.size.height_px / size.height_px

        def rows_of(top: int, bottom: int) -> RgbImage:
            part = Box(box.top_px + top, box.left_px, box.top_px + bottom, box.right_px)
            return pixels[part.slices] if isinstance(pixels, np.ndarray) else pixels.read(part, level)

        for first in range(0, size.height_px, _BLOCK_ROWS):
            last = min(first + _BLOCK_ROWS, size.height_px)
            if per_row >= 1:
                source = range(round(first * per_row), round(last * per_row))
                wanted = Size(last - first, size.width_px)
                if len(source) * box.size.width_px <= _READ_PX:
                    yield resize_image(rows_of(source.start, source.stop), wanted)
                else:
                    yield _averaged(rows_of, source, wanted, max(1, _READ_PX // box.size.width_px))
                continue
            # Enlarged bilinearly, a row lies between two, of which one may be beside the band.
            at = ((np.arange(first, last) + 0.5) * per_row - 0.5).clip(0, box.size.height_px - 1)
            upper = at.astype(np.intp)
            lower = np.minimum(upper + 1, box.size.height_px - 1)
            band = rows_of(int(upper[0]), int(lower[-1]) + 1).astype(np.float32)
            wide = resize_image(band, Size(len(band), size.width_px))
            share = (at - upper).astype(np.float32)[:, None, None]
            mixed = wide[upper - upper[0]] * (1 - share) + wide[lower - upper[0]] * share
            yield (mixed + 0.5).astype(np.uint8)

    def overview(self, max_side_px: int) -> RgbImage:
        """The whole slide at most ``max_side_px`` a side, aspect kept, never enlarged."""
        size = self.size
        return self.region(Box.whole(size), size.scaled(min(1.0, max_side_px / max(size.height_px, size.width_px))))


def slide_name(path: Path) -> str:
    """What the slide at ``path`` is called where nobody says it: the file's stem, or the DICOM folder's name."""
    if not path.is_dir():
        return path.stem
    return path.name if path.name.strip(".") else path.resolve().name  # `.` and `..` have no name of their own


def _averaged(rows_of: Callable[[int, int], RgbImage], source: range, size: Size, at_once: int) -> RgbImage:
    """The rows of ``source`` at a smaller ``size`` as :func:`resize_image` averages them, ``at_once`` of them read."""
    edges = np.linspace(source.start, source.stop, size.height_px + 1)
    sums = np.zeros((size.height_px, size.width_px, 3), np.float32)
    for start in range(source.start, source.stop, at_once):
        rows = np.arange(start, min(start + at_once, source.stop))
        read = rows_of(start, int(rows[-1]) + 1)
        read = resize_image(read, Size(len(read), size.width_px))
        for number, (top, bottom) in enumerate(pairwise(edges)):
            share = np.minimum(rows + 1, bottom) - np.maximum(rows, top)
            within = share > 0
            if within.any():
                sums[number] += np.tensordot(share[within].astype(np.float32), read[within].astype(np.float32), 1)
    averaged: RgbImage = np.rint(sums * (size.height_px / len(source))).astype(np.uint8)
    return averaged


def resize_image(pixels: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    """``pixels`` at ``size``: averaged where it shrinks (no aliasing), bilinear where it grows."""
    import cv2

    if Size(*pixels.shape[:2]) == size:
        return pixels
    smaller = size.area_px < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized: npt.NDArray[Any] = cv2.resize(pixels, (size.width_px, size.height_px), interpolation=how)
    return resized


def read_slide(
    path: Path,
    *,
    declared_mpp: float = DECLARED_MPP,
    max_side_px: int = MAX_SIDE_PX,
    name: str | None = None,
) -> Slide:
    """Reads and checks a JPEG, PNG or TIFF file, decoding it whole, or, a TIFF of many pixels, only opening it.

    Vendors' slides (:data:`WSI_SUFFIXES`) are only opened, too. A DICOM slide is a folder of .dcm files;
    by one of them its whole series in that folder is read.

    Grey, CMYK, palette, alpha and 16-bit images are turned into 8-bit RGB where that is safe, and
    :attr:`Slide.conversions` says so. The scale is what a TIFF or a vendor's slide states. Other files, such as HPA's,
    state none: then it is ``declared_mpp``, recorded as declared.

    Args:
        path: the file, or the folder of a DICOM slide.
        declared_mpp: microns per pixel where the file states none.
        max_side_px: of an image that is decoded whole.
        name: of the slide; by default :func:`slide_name`.

    Raises:
        MissingInput: no such file, or a folder without DICOM files.
        BadImage: empty, truncated, HTML, another format, larger than ``max_side_px`` on a side (in parts: than
            :data:`MAX_TILED_SIDE_PX`), or of a pixel type that has no safe 8-bit RGB reading.
        BadSetting: ``declared_mpp`` is not a positive number of microns.
    """
    if not 0.01 <= declared_mpp <= 100:
        raise BadSetting(f"The declared mpp is {declared_mpp}: give microns per pixel between 0.01 and 100.")
    try:
        if path.is_dir() or path.suffix.lower() in WSI_SUFFIXES:
            files = slide_files(path)
            if not files[0].stat().st_size:
                raise BadImage(f"{files[0].name} is empty: fetch it again.")
            vendors = WsiPixels(files[0])
            return _in_parts(files, name or slide_name(path), vendors, vendors.mpp, declared_mpp)
        if _is_large_tiff(path):
            return _in_parts([path], name or slide_name(path), TiledPixels(path), stated_mpp(path), declared_mpp)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadImage(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MB: export a smaller region of it.")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise MissingInput(f"There is no image {path}: check the path, or fetch it first.") from error
    pixels, conversions = decode_rgb(data, path.name, max_side_px=max_side_px)
    mpp = stated_mpp(path) if data.startswith(_TIFF) else None
    return Slide(
        name=name or slide_name(path),
        pixels=pixels,
        mpp=mpp or declared_mpp,
        mpp_source=MppSource.FILE if mpp else MppSource.DECLARED,
        sha256=sha256_bytes(data),
        conversions=conversions,
    )


def _in_parts(
    files: Sequence[Path], name: str, pixels: TiledPixels | WsiPixels, mpp: float | None, declared_mpp: float
) -> Slide:
    hashes = [sha256_file(file) for file in files]
    return Slide(
        name=name,
        pixels=pixels,
        mpp=mpp or declared_mpp,
        mpp_source=MppSource.FILE if mpp else MppSource.DECLARED,
        # Sorted, so that the files' names, which are not kept, are nothing to it.
        sha256=hashes[0] if len(hashes) == 1 else sha256_bytes("\n".join(sorted(hashes)).encode()),
        conversions=(f"read in parts, at {len(pixels.sizes)} levels", *pixels.conversions),
    )


def _is_large_tiff(path: Path) -> bool:
    """Whether it is a TIFF of more than :data:`WHOLE_PX`; only its first directory is read."""
    with path.open("rb") as file:
        if file.read(4) not in _TIFF:
            return False
        import tifffile

        file.seek(0)
        try:
            with tifffile.TiffFile(file) as tiff:
                page = tiff.pages[0]
                return bool(page.imagelength * page.imagewidth > WHOLE_PX)
        except Exception:  # a damaged header; what is wrong with it is said by what decodes small images whole
            return False


def decode_rgb(data: bytes, name: str, *, max_side_px: int = MAX_SIDE_PX) -> tuple[RgbImage, tuple[str, ...]]:
    """Decodes the bytes of an image file whole.

    Returns:
        (H, W, 3) uint8 RGB, and what was converted to get there.

    Raises:
        BadImage: see :func:`read_slide`.
    """
    if not data:
        raise BadImage(f"{name} is empty: fetch it again.")
    if data[:512].lstrip()[:1] == b"<":
        raise BadImage(f"{name} is a web page (HTML or XML), not an image: check its address, then fetch it again.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if max(image.size) > max_side_px:
                raise BadImage(
                    f"{name} is {image.width}×{image.height} px, over the limit of {max_side_px} px a side: "
                    "raise the limit or export a smaller region."
                )
            check_whole(image, data, name)
            # Pages are not counted: Pillow walks them in quadratic time, and stumbles over later ones.
            more_pages, deep = getattr(image, "is_animated", False), any(";16" in str(tile[3]) for tile in image.tile)
            image.load()
            pixels, conversions = as_rgb(image, name)
            if deep and "16-bit" not in str(conversions):
                conversions = ("16-bit colour divided by 256", *conversions)
            return pixels, (FIRST_PAGE, *conversions) if more_pages else conversions
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(unidentified(data, name)) from error
    except Exception as error:  # Pillow raises whatever it stumbles over in a damaged file
        raise BadImage(f"{name} is damaged or cut short ({error}): fetch it again.") from error
