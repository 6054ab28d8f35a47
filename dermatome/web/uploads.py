"""What the app accepts: an uploaded image within limits that keep memory bounded, or one of the examples."""

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
"""Draws an example's image."""


@dataclass(frozen=True)
class UploadLimits:
    """How large an upload may be; together with one job at a time they bound the app's memory.

    Attributes:
        max_file_bytes: of the file.
        max_side_px: of the image.
        max_area_px: of the image; a 3,000 px core of HPA has 9 million.
        max_network_px: of the image once it is enlarged to the scale of a network, which is what takes the time; a
            whole upload at half the network's resolution is just let through.
        max_uploads: uploads of one browser within an hour.
        max_bytes: size of these together.
        max_total_bytes: size of all uploads and results that wait on disk.
    """

    max_file_bytes: int = 64 * MIB
    max_side_px: int = 8_000
    max_area_px: int = 16_000_000
    max_network_px: int = 64_000_000
    max_uploads: int = 100
    max_bytes: int = 512 * MIB
    max_total_bytes: int = 1024 * MIB

    def in_words(self) -> str:
        """The limits, for people."""
        kinds = ", ".join(FORMATS)
        return (
            f"{kinds}; up to {self.max_file_bytes // MIB} MB, {self.max_area_px // 1_000_000} million pixels and "
            f"{self.max_side_px:,} px a side. For larger slides use the platform or the command line."
        )


def read_upload(path: Path, mpp: float, limits: UploadLimits) -> Slide:
    """Reads an uploaded image, whose size is looked at before anything is decoded.

    Args:
        path: of the upload.
        mpp: microns per pixel where the file itself states none.
        limits: of uploads.

    Raises:
        BadImage: another kind of file, too large, or damaged.
        BadSetting: ``mpp`` is no scale.
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
    """The uploaded image where there is one, else the example that is chosen.

    Args:
        path: of the upload; None without one.
        example: its name.
        mpp: declared for an upload that states none; examples know theirs.
        limits: of uploads.
        examples: that may be chosen, by name.

    Raises:
        MissingInput: neither is there.
        BadImage: see :func:`read_upload`.
        BadSetting: the same.
    """
    if path:
        return read_upload(Path(path), mpp or 0.0, limits)
    if example is None or example not in examples:
        raise MissingInput("There is no image yet: upload one, or pick an example.")
    return examples[example]()


def check_work(slide: Slide, seen: Size, limits: UploadLimits) -> None:
    """Refuses an image that becomes too large at a network's scale.

    Args:
        slide: the image.
        seen: its size as the network sees it.
        limits: of uploads.

    Raises:
        BadImage: it has too many pixels there.
    """
    if seen.area_px > limits.max_network_px:
        raise BadImage(
            f"{slide.name} has {slide.mpp:g} µm per pixel, and enlarged to what the network was trained on it would "
            f"have {seen.area_px / 1e6:,.0f} million pixels, over the limit of {limits.max_network_px // 1_000_000} "
            "million: upload a smaller region, correct the microns per pixel, or use the command line."
        )


def shown_name(path: Path) -> str:
    """The name of an upload as it is shown and as its results are named: no sign that means anything elsewhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", path.stem).strip("._-")[:60] or "upload"


def _check_area(path: Path, name: str, limits: UploadLimits) -> None:
    """Refuses what has too many pixels; what cannot even be opened is told about by what reads it then."""
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
