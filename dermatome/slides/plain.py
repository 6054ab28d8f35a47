"""Plain images (JPEG, PNG, TIFF) decoded as one array; damage that Pillow would pass over is found."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from dermatome.classes import RgbImage
from dermatome.errors import BadImage
from dermatome.slides.mpp import check_interleaved

# Pillow's own limit is a guess at what is a decompression bomb; `max_side_px` is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
MAX_SIDE_PX = 20_000
FIRST_PAGE = "the first of several pages taken"
GREY_REPEATED = "grey repeated into three channels"
_ANY_TILE_PX = 4096
"""Side of a tile that a small image may be stored in, too."""


def decode_rgb(data: bytes, name: str, *, max_side_px: int = MAX_SIDE_PX) -> tuple[RgbImage, tuple[str, ...]]:
    """Decodes the bytes of an image file.

    Returns:
        (H, W, 3) uint8 RGB, and what was converted to get there.

    Raises:
        BadImage: the file is empty, damaged, a web page, of another format, larger than ``max_side_px`` on a side, or
            of a pixel type that has no safe 8-bit RGB reading.
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
            _check_complete(image, data, name)
            # Pages are not counted: Pillow walks them in quadratic time, and stumbles over later ones.
            more_pages, deep = getattr(image, "is_animated", False), any(";16" in str(tile[3]) for tile in image.tile)
            image.load()
            pixels, conversions = _as_rgb(image, name)
            if deep and "16-bit" not in str(conversions):
                conversions = ("16-bit colour divided by 256", *conversions)
            return pixels, (FIRST_PAGE, *conversions) if more_pages else conversions
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(_unidentified(data, name)) from error
    except Exception as error:  # Pillow raises whatever it stumbles over in a damaged file
        raise BadImage(f"{name} is damaged or cut short ({error}): fetch it again.") from error


def _check_complete(image: Image.Image, data: bytes, name: str) -> None:
    """Refuses what Pillow reads silently although parts are missing, which would look like grey or black tissue.

    Raises:
        ValueError: compressed data of a JPEG are damaged or missing, or strips or tiles of a TIFF are.
        BadImage: tiles of a TIFF are far larger than the image, so that decoding them takes any amount of memory, or
            its channels are separate pages.
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


def _unidentified(data: bytes, name: str) -> str:
    """One sentence about bytes that Pillow does not identify as an image."""
    kinds = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF"}
    for start, kind in kinds.items():
        if data.startswith(start):
            return (
                f"{name} begins like a {kind} image, but its header is damaged or of a kind that is not read: fetch it "
                "again, or export it as 8-bit RGB."
            )
    return f"{name} is not a JPEG, PNG or TIFF image (it begins with {data[:8]!r}): fetch or export it again."


def _as_rgb(image: Image.Image, name: str) -> tuple[RgbImage, tuple[str, ...]]:
    """Returns (H, W, 3) uint8 RGB and the conversions, in words.

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


def _sixteen_bit(values: npt.NDArray[Any], name: str, conversions: list[str]) -> tuple[RgbImage, tuple[str, ...]]:
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(f"{name} has 32-bit pixels outside 0..65535: export it as 8-bit RGB.")
    grey = (values.astype(np.uint32) >> 8).astype(np.uint8)
    conversions.append("16-bit grey divided by 256 and repeated into three channels")
    return np.repeat(grey[..., None], 3, axis=2), tuple(conversions)
