"""The inputs that the app accepts: an uploaded image within limits that bound memory, or an example."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dermatome.errors import BadImage, MissingInput
from dermatome.geometry import Size
from dermatome.slides.plain import FORMATS, SUFFIXES
from dermatome.slides.slide import Slide, read_slide

MIB = 1 << 20

Example = Callable[[], Slide]
"""Function that draws an example image."""


@dataclass(frozen=True)
class UploadLimits:
    """Limits on uploads. As one image is computed at a time, they also bound the app's memory.

    Attributes:
        max_file_bytes: Size of the file, bytes.
        max_side_px: Longest side of the image, px.
        max_area_px: Pixels of the image; an HPA core with 3,000 px per side has 9 million.
        max_network_px: Pixels of the image at the scale of a network, which determine the computing time. The largest
            upload at half the network's resolution is just within the limit.
        max_uploads: Number of uploads of one browser within an hour.
        max_bytes: Total size of these uploads, bytes.
        max_total_bytes: Total size of all uploads and results on disk, bytes.
    """

    max_file_bytes: int = 64 * MIB
    max_side_px: int = 8_000
    max_area_px: int = 16_000_000
    max_network_px: int = 64_000_000
    max_uploads: int = 100
    max_bytes: int = 512 * MIB
    max_total_bytes: int = 1024 * MIB

    def in_words(self) -> str:
        """The limits in a sentence."""
        kinds = ", ".join(FORMATS)
        return (
            f"{kinds}; up to {self.max_file_bytes // MIB} MB, {self.max_area_px // 1_000_000} million pixels and "
            f"{self.max_side_px:,} px a side. For larger slides use the platform or the command line."
        )


def read_upload(path: Path, mpp: float, limits: UploadLimits) -> Slide:
    """Reads an uploaded image after checking its size without decoding it; ``mpp`` is used if the file states none.

    Raises:
        BadImage: The file is not an image, too large, or damaged.
        BadSetting: ``mpp`` is not a valid scale.
    """
    name = shown_name(path)
    if path.suffix.lower() not in SUFFIXES:
        raise BadImage(f"{name} has the suffix {path.suffix[:12]!r}: upload a {', '.join(SUFFIXES)} file.")
    file_bytes = path.stat().st_size
    if file_bytes > limits.max_file_bytes:
        raise BadImage(
            f"{name} has {file_bytes / MIB:.0f} MB, over the limit of {limits.max_file_bytes // MIB} MB: upload a "
            "smaller region, or use the command line."
        )
    _check_area(path, name, limits)
    slide = read_slide(path, declared_mpp=mpp, max_side_px=limits.max_side_px, name=name)
    if slide.size.area_px > limits.max_area_px:
        raise _too_many(name, slide.size.width_px, slide.size.height_px, limits)
    return slide


def choose_slide(
    path: str | None, example: str | None, mpp: float | None, limits: UploadLimits, examples: Mapping[str, Example]
) -> Slide:
    """Reads the uploaded image with :func:`read_upload` if there is one; otherwise draws the named example.

    Raises:
        MissingInput: There is neither an upload nor an example.
    """
    if path:
        return read_upload(Path(path), mpp or 0.0, limits)
    if example is None or example not in examples:
        raise MissingInput("There is no image yet: upload one, or pick an example.")
    return examples[example]()


def check_work(slide: Slide, seen: Size, limits: UploadLimits) -> None:
    """Refuses an image that becomes too large at a network's scale, where it has the size ``seen``.

    Raises:
        BadImage: The image has too many pixels at that scale.
    """
    if seen.area_px > limits.max_network_px:
        raise BadImage(
            f"{slide.name} has {slide.mpp:g} µm per pixel, and enlarged to what the network was trained on it would "
            f"have {seen.area_px / 1e6:,.0f} million pixels, over the limit of {limits.max_network_px // 1_000_000} "
            "million: upload a smaller region, correct the microns per pixel, or use the command line."
        )


def shown_name(path: Path) -> str:
    """Name under which an upload and its results are shown: letters, digits, ``.``, ``_`` and ``-`` only."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._-")[:60] or "upload"


def _check_area(path: Path, name: str, limits: UploadLimits) -> None:
    """Refuses an image with too many pixels; the reader reports a file that cannot be opened."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width_px, height_px = image.size
    except (OSError, ValueError, SyntaxError):
        return
    if width_px * height_px > limits.max_area_px:
        raise _too_many(name, width_px, height_px, limits)


def _too_many(name: str, width_px: int, height_px: int, limits: UploadLimits) -> BadImage:
    return BadImage(
        f"{name} is {width_px:,}×{height_px:,} px, over the limit of {limits.max_area_px // 1_000_000} million pixels: "
        "upload a smaller region, or use the command line."
    )
