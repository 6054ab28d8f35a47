"""What Pillow decoded, made 8-bit RGB where that is safe, and damage found that it reads without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from dermatome.errors import BadImage
from dermatome.slides.mpp import check_interleaved

FIRST_PAGE = "the first of several pages taken"
GREY_REPEATED = "grey repeated into three channels"
_ANY_TILE_PX = 4096
"""Side of a tile that a small image may be stored in, too."""


def check_whole(image: Image.Image, data: bytes, name: str) -> None:
    """Finds what Pillow reads without a word: what is missing would come out as grey or black tissue.

    Raises:
        ValueError: compressed data of a JPEG are damaged or missing, or strips or tiles of a TIFF are.
        BadImage: tiles of a TIFF are far larger than the image, so that decoding them takes any amount of memory, or
            its channels are pages of their own.
    """
    if data[:2] == b"\xff\xd8":
        # libjpeg only warns of such data, and Pillow passes no warnings on.
        import simplejpeg

        try:
            simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)
        except ValueError as error:
            if str(error).startswith(("Corrupt JPEG data", "Premature end")):
                raise
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        check_interleaved(str(tags.get(270, "")), tags.get(277, 1), name)
        tiled = 322 in tags or 324 in tags
        down, across = (tags.get(323, 0), tags.get(322, 0)) if tiled else (tags.get(278, image.height), image.width)
        planes = tags.get(277, 1) if tags.get(284, 1) == 2 else 1
        # Strips are cut to the image before they are decoded, and one of 2³² rows is a common way to say "all".
        if tiled and (down > max(image.height + 15, _ANY_TILE_PX) or across > max(image.width + 15, _ANY_TILE_PX)):
            raise BadImage(
                f"{name} has {image.width}×{image.height} px and is stored in tiles of {across}×{down} px, each of "
                "which is decoded whole: export it in tiles no larger than it is."
            )
        parts = -(-image.height // max(1, down)) * -(-image.width // max(1, across)) * planes
        there = len(tags.get(324) or tags.get(273, ()))
        if there < parts:
            raise ValueError(f"{there} of {parts} strips or tiles are there")


def unidentified(data: bytes, name: str) -> str:
    """Why bytes that Pillow does not know are no image, in one sentence."""
    kinds = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF"}
    for start, kind in kinds.items():
        if data.startswith(start):
            return (
                f"{name} begins like a {kind} image, but its header is damaged or of a kind that is not read: fetch it "
                "again, or export it as 8-bit RGB."
            )
    return f"{name} is not a JPEG, PNG or TIFF image (it begins with {data[:8]!r}): fetch or export it again."


def as_rgb(image: Image.Image, name: str) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """(H, W, 3) uint8 RGB, and in words what was done to get there.

    Raises:
        BadImage: its pixels have no safe 8-bit RGB reading.
    """
    conversions: list[str] = []
    if image.getexif().get(0x0112, 1) != 1:
        image = ImageOps.exif_transpose(image)
        conversions.append("turned upright as its EXIF orientation says")
    mode = image.mode
    if mode == "RGB":
        pass
    elif mode in ("L", "1"):
        conversions.append(GREY_REPEATED)
    elif mode in ("I;16", "I;16B", "I;16L", "I"):
        return _sixteen_bit(np.asarray(image), name, conversions)
    elif mode in ("RGBA", "LA", "PA") or (mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
        white: Any = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
        conversions.append("transparency laid on white")
    elif mode == "P":
        conversions.append("palette turned into RGB")
    elif mode in ("CMYK", "YCbCr", "LAB"):
        conversions.append(f"{mode} turned into RGB without a colour profile")
    else:
        raise BadImage(f"{name} has pixels of type {mode!r}, which has no safe 8-bit RGB reading: export it as RGB.")
    return np.array(image.convert("RGB"), dtype=np.uint8), tuple(conversions)


def _sixteen_bit(
    values: npt.NDArray[Any], name: str, conversions: list[str]
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(f"{name} has 32-bit pixels outside 0..65535: export it as 8-bit RGB.")
    grey = (values.astype(np.uint32) >> 8).astype(np.uint8)
    conversions.append("16-bit grey divided by 256 and repeated into three channels")
    return np.repeat(grey[..., None], 3, axis=2), tuple(conversions)
