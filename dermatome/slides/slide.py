"""A slide: RGB pixels with a declared scale, read from an untrusted file in bounded memory.

Small images are held in memory. Large TIFFs and vendors' files are read in parts: code that works on any slide reads
regions and rows, never all of its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from dermatome.classes import RgbImage
from dermatome.errors import BadImage, BadSetting, MissingInput
from dermatome.geometry import Box, Size
from dermatome.slides.dicom import slide_files
from dermatome.slides.levels import LevelPixels
from dermatome.slides.mpp import check_declared, dots_scale, stated_scale
from dermatome.slides.plain import MAX_SIDE_PX, TIFF_STARTS, decode_rgb, stated_dpi
from dermatome.slides.resize import resized_rows
from dermatome.slides.tiled_tiff import TiledPixels
from dermatome.slides.vendors import WSI_SUFFIXES, WsiPixels
from dermatome.storage.files import sha256_bytes, sha256_file

DECLARED_MPP = 0.5
MAX_FILE_BYTES = 512 * 1024 * 1024
"""Size limit of the file of an image that is decoded as one array, bytes."""
WHOLE_PX = 8192 * 8192
"""A TIFF with more pixels than this is read in parts."""


class MppSource(StrEnum):
    """The origin of a slide's microns per pixel."""

    DECLARED = "declared"
    FILE = "file"


@dataclass(frozen=True)
class Slide:
    """One image at level 0.

    Attributes:
        name: stem of the file, name of a DICOM slide's folder, or a slide id.
        pixels: (H, W, 3) uint8 RGB, in memory, or read in parts when it is sliced; :meth:`region` returns any part at
            any scale.
        mpp: microns per pixel.
        mpp_source: whether a person declared ``mpp`` or the file states it.
        sha256: hash of the file's bytes; for several files, of all that contain its pixels.
        conversions: conversions to 8-bit RGB and evidence against the scale, as text; often empty.
    """

    name: str
    pixels: RgbImage | LevelPixels
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
        """The scale and its origin as text for figures."""
        source = "declared, not measured" if self.mpp_source is MppSource.DECLARED else "stated by the file"
        return f"µm from {self.mpp:g} µm/px ({source})"

    def whole(self) -> RgbImage:
        """All pixels, in memory.

        Raises:
            BadImage: the slide is read in parts, as it is too large for memory.
        """
        if not isinstance(self.pixels, np.ndarray):
            raise BadImage(f"{self.name} is too large to be read into memory: export a smaller region of it.")
        return self.pixels

    def region(self, box: Box, size: Size) -> RgbImage:
        """The part in ``box`` (level-0 pixels) at ``size``: averaged where it shrinks, bilinear where it grows.

        Needs memory for the result and a few rows only, so the box may cover all of a large slide. It reads the
        coarsest level of a pyramid that is fine enough.
        """
        return np.concatenate(list(self.rows(box, size)))

    def rows(self, box: Box, size: Size) -> Iterator[RgbImage]:
        """Yields :meth:`region` in bands of rows from top to bottom, (rows, w, 3) each."""
        pixels, level = self.pixels, 0
        if not isinstance(pixels, np.ndarray) and size.area_px < box.size.area_px:
            shrunk = min(box.size.height_px / size.height_px, box.size.width_px / size.width_px)
            level = pixels.level_for(shrunk)
            box = box.rescaled(self.size, pixels.sizes[level])

        def rows_of(top: int, bottom: int) -> RgbImage:
            part = Box(box.top_px + top, box.left_px, box.top_px + bottom, box.right_px)
            return pixels[part.slices] if isinstance(pixels, np.ndarray) else pixels.read(part, level)

        return resized_rows(rows_of, box.size, size)

    def overview(self, max_side_px: int) -> RgbImage:
        """The slide with at most ``max_side_px`` per side, in its aspect ratio, never enlarged."""
        size = self.size
        return self.region(Box.whole(size), size.scaled(min(1.0, max_side_px / max(size.height_px, size.width_px))))


def slide_name(path: Path) -> str:
    """Default name of the slide at ``path``: the file's stem, or the DICOM folder's name."""
    if not path.is_dir():
        return path.stem
    return path.name if path.name.strip(".") else path.resolve().name  # `.` and `..` are not names


def read_slide(
    path: Path,
    *,
    declared_mpp: float = DECLARED_MPP,
    mpp_given: bool = False,
    max_side_px: int = MAX_SIDE_PX,
    name: str | None = None,
) -> Slide:
    """Reads and checks an image file: JPEG, PNG and TIFF are decoded, large TIFFs and vendors' slides only opened.

    A DICOM slide is a folder of .dcm files; one of them stands for its series in that folder. Grey, CMYK, palette,
    alpha and 16-bit images are converted to 8-bit RGB where that is safe, and :attr:`Slide.conversions` lists it. The
    scale is what the file states: a TIFF or a vendor's slide in several ways, a JPEG or PNG as dots per inch if they
    are a microscope's. Other files, such as HPA's, state none: then it is ``declared_mpp``, recorded as declared.

    Args:
        path: the file, or the folder of a DICOM slide.
        declared_mpp: microns per pixel if the file states none.
        mpp_given: whether a person declared it for this very file; it then also overrides a stated objective.
        max_side_px: longest side of an image that is decoded as one array.
        name: name of the slide; by default :func:`slide_name`.

    Raises:
        MissingInput: there is no such file, or the folder has no DICOM files.
        BadImage: the file is empty, truncated, HTML, of another format, too large, of a pixel type that cannot be
            converted safely to 8-bit RGB, of pixels that are not square, or of an objective that contradicts
            ``declared_mpp``.
        BadSetting: ``declared_mpp`` is not a positive number of microns.
    """
    if not 0.01 <= declared_mpp <= 100:
        raise BadSetting(f"The declared mpp is {declared_mpp}: give microns per pixel between 0.01 and 100.")
    pixels: RgbImage | LevelPixels
    try:
        if path.is_dir() or path.suffix.lower() in WSI_SUFFIXES:
            files = slide_files(path)
            if not files[0].stat().st_size:
                raise BadImage(f"{files[0].name} is empty: fetch it again.")
            pixels = WsiPixels(files[0])
        elif _is_large_tiff(path):
            files, pixels = [path], TiledPixels(path)
        else:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BadImage(f"{path.name} is larger than {MAX_FILE_BYTES >> 20} MB: export a smaller region of it.")
            data = path.read_bytes()
            pixels, conversions = decode_rgb(data, path.name, max_side_px=max_side_px)
            is_tiff, sha256 = data.startswith(TIFF_STARTS), sha256_bytes(data)
            scale = stated_scale(path) if is_tiff else dots_scale(stated_dpi(data), path.name)
    except FileNotFoundError as error:
        raise MissingInput(f"There is no image {path}: check the path, or fetch it first.") from error
    if isinstance(pixels, LevelPixels):
        hashes = [sha256_file(file) for file in files]
        # Sorted, so that the names of the files, which are not kept, do not matter.
        sha256 = hashes[0] if len(hashes) == 1 else sha256_bytes("\n".join(sorted(hashes)).encode())
        levels = len(pixels.sizes)
        conversions = (f"read in parts, at {levels} level{'s' * (levels > 1)}", *pixels.conversions)
        scale = pixels.scale
    return Slide(
        name=name or slide_name(path),
        pixels=pixels,
        mpp=scale.mpp or declared_mpp,
        mpp_source=MppSource.FILE if scale.mpp else MppSource.DECLARED,
        sha256=sha256,
        conversions=(*conversions, *check_declared(scale, declared_mpp, mpp_given, path.name)),
    )


def _is_large_tiff(path: Path) -> bool:
    """Whether it is a TIFF of more than :data:`WHOLE_PX`; reads only its first directory."""
    with path.open("rb") as file:
        if file.read(4) not in TIFF_STARTS:
            return False
        import tifffile

        file.seek(0)
        try:
            with tifffile.TiffFile(file) as tiff:
                page = tiff.pages[0]
                return bool(page.imagelength * page.imagewidth > WHOLE_PX)
        except Exception:  # a damaged header; `decode_rgb` reports what is wrong with it
            return False
