"""Decodes plain images (JPEG, PNG, TIFF) as one array, and finds damage that Pillow would ignore."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from dermatome.classes import RgbImage
from dermatome.errors import BadImage
from dermatome.slides.mpp import check_interleaved, significant_bits

# Pillow's own limit only guesses at decompression bombs; `max_side_px` is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

FORMATS = ("JPEG", "PNG", "TIFF")
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
MAX_SIDE_PX = 20_000
FIRST_PAGE = "the first of several pages taken"
GREY_REPEATED = "grey repeated into three channels"
TURNED = "turned upright as its EXIF orientation says"
_ORIENTATION, _TURNS = 0x0112, range(2, 9)
_SAMPLED, _BRIGHT_PERCENTILE = 3_000_000, 99.5
"""Number of values that are sampled to find the brightest ones, and the percentile that counts as bright."""
_ANY_TILE_PX = 4096
"""Allowed side of a tile in the file of a small image, px."""


def decode_rgb(data: bytes, name: str, *, max_side_px: int = MAX_SIDE_PX) -> tuple[RgbImage, tuple[str, ...]]:
    """Decodes the bytes of an image file.

    Returns:
        (H, W, 3) uint8 RGB, and the conversions that were made, as text.

    Raises:
        BadImage: the file is empty, damaged, a web page, of another format, larger than ``max_side_px`` on a side, or
            its pixel type cannot be converted safely to 8-bit RGB.
    """
    with _checked(data, name, max_side_px) as (image, pixels):
        # Pages are not counted: Pillow walks them in quadratic time, and stumbles over later ones.
        more_pages = getattr(image, "is_animated", False)
        deep = any(";16" in str(tile[3]) for tile in image.tile) or _stated_bits(image) > 8
        deep &= image.mode != "F"
        orientation = image.getexif().get(_ORIENTATION, 1)
        if pixels is not None and orientation not in _TURNS:
            return pixels, (FIRST_PAGE,) if more_pages else ()
        image.load()
        note: tuple[str, ...] = ()
        if deep or image.mode == "I":
            image, note = _eight_bit(image, data, name, orientation)
        pixels, conversions = _as_rgb(image, name)
        conversions = (*note, *((TURNED,) if orientation in _TURNS else ()), *conversions)
        return pixels, (FIRST_PAGE, *conversions) if more_pages else conversions


def stated_dpi(data: bytes) -> tuple[float, float] | None:
    """Dots per inch across and down that a JPEG or PNG, already decoded once, states; None if it does not."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return image.info.get("dpi")


def decode_numbers(data: bytes, name: str) -> npt.NDArray[Any] | None:
    """Decodes an image of one channel without changing its numbers, such as a mask of class numbers.

    Returns:
        (H, W) uint8 to int32, or float32 as Fiji saves labels; None if the image has colours.

    Raises:
        BadImage: See :func:`decode_rgb`.
    """
    with _checked(data, name, MAX_SIDE_PX) as (image, _):
        if image.mode not in ("1", "L", "I", "I;16", "I;16B", "I;16L", "F"):
            return None
        values = np.asarray(image.convert("L") if image.mode == "1" else image)
        # Pillow inverts 8-bit values if a TIFF declares 0 as white.
        return 255 - values if getattr(image, "tag_v2", {}).get(262) == 0 and values.dtype == np.uint8 else values


@contextmanager
def _checked(data: bytes, name: str, max_side_px: int) -> Iterator[tuple[Any, RgbImage | None]]:
    """Opens and checks the bytes of an image file, which the block decodes. Raises as :func:`decode_rgb` does.

    Yields:
        Pillow's image, and the RGB pixels of a JPEG, not turned, if checking it has decoded them.
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
            yield image, _check_complete(image, data, name)
    except BadImage:
        raise
    except Exception as error:  # Pillow raises many classes of errors for a damaged file
        _check_compression(data, name)
        if isinstance(error, UnidentifiedImageError):
            raise BadImage(_unidentified(data, name)) from error
        raise BadImage(f"{name} is damaged or cut short ({error}): fetch it again.") from error


def _check_complete(image: Image.Image, data: bytes, name: str) -> RgbImage | None:
    """Refuses what Pillow reads silently although parts are missing, which would look like grey or black tissue.

    Returns:
        The pixels of a colour JPEG, (H, W, 3), which are Pillow's: it is checked by decoding it. None of others.

    Raises:
        ValueError: compressed data of a JPEG, or strips or tiles of a TIFF, are damaged or missing.
        BadImage: tiles of a TIFF are far larger than the image, so decoding them could need any amount of memory, or
            its channels are separate pages.
    """
    if data[:2] == b"\xff\xd8":
        # libjpeg only warns of such data, and Pillow does not pass warnings on.
        import simplejpeg

        colour = image.mode == "RGB"
        try:
            pixels: RgbImage = simplejpeg.decode_jpeg(data, colorspace="RGB" if colour else "GRAY", strict=True)
            return pixels if colour else None
        except ValueError as error:
            if str(error).startswith(("Corrupt JPEG data", "Premature end")):
                raise
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        check_interleaved(str(tags.get(270, "")), tags.get(277, 1), name)
        tiled = 322 in tags or 324 in tags
        wide, tall = tags[256], tags[257]  # Pillow's own width and height are those of the upright image
        down, across = (tags.get(323, 0), tags.get(322, 0)) if tiled else (tags.get(278, tall), wide)
        planes = tags.get(277, 1) if tags.get(284, 1) == 2 else 1
        # Strips are cut to the image before decoding; one strip of 2³² rows is a common way to say "all rows".
        if tiled and (down > max(tall + 15, _ANY_TILE_PX) or across > max(wide + 15, _ANY_TILE_PX)):
            raise BadImage(
                f"{name} has {wide}×{tall} px and is stored in tiles of {across}×{down} px, each of "
                "which must be decoded completely: export it in tiles no larger than the image."
            )
        parts = -(-tall // max(1, down)) * -(-wide // max(1, across)) * planes
        there = len(tags.get(324) or tags.get(273, ()))
        if there < parts:
            raise ValueError(f"{there} of {parts} strips or tiles are there")
    return None


def _unidentified(data: bytes, name: str) -> str:
    """A sentence about bytes that Pillow does not recognize as an image."""
    kinds = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG"} | dict.fromkeys(TIFF_STARTS, "TIFF")
    for start, kind in kinds.items():
        if data.startswith(start):
            return (
                f"{name} begins like a {kind} image, but its header is damaged or of an unsupported kind: fetch it "
                "again, or export it as 8-bit RGB."
            )
    return f"{name} is not a JPEG, PNG or TIFF image (it begins with {data[:8]!r}): fetch or export it again."


def _as_rgb(image: Image.Image, name: str) -> tuple[RgbImage, tuple[str, ...]]:
    """Returns (H, W, 3) uint8 RGB and the conversions that were made, as text.

    Raises:
        BadImage: its pixel type cannot be converted safely to 8-bit RGB.
    """
    conversions: list[str] = []
    image = ImageOps.exif_transpose(image)  # Pillow has turned a TIFF already
    mode = image.mode
    if mode == "RGB":
        pass
    elif mode in ("L", "1"):
        conversions.append(GREY_REPEATED)
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
        raise BadImage(f"{name} has pixels of type {mode!r}, which has no safe 8-bit RGB conversion: export it as RGB.")
    return np.array(image.convert("RGB"), dtype=np.uint8), tuple(conversions)


def _stated_bits(image: Any) -> int:
    """The largest number of bits per channel that a TIFF states; 0 for other formats."""
    tags = getattr(image, "tag_v2", None)
    bits = 0 if tags is None else tags.get(258, 1)
    return max(bits) if isinstance(bits, tuple) else int(bits)


def _eight_bit(image: Image.Image, data: bytes, name: str, orientation: int) -> tuple[Any, tuple[str, ...]]:
    """Converts a 16-bit or 32-bit image to 8 bits; returns it with a description of the conversion.

    ``orientation`` is that stated by the file, as pixels that are not read by Pillow are not turned by it either.

    Raises:
        BadImage: its values do not fit their stated number of bits, or nearly all are below half of 16 bits without a
            stated number of bits, so that the value of white is unknown.
    """
    tags = getattr(image, "tag_v2", None)
    bits = 16 if tags is None else min(16, significant_bits(tags))
    colour = image.mode in ("RGB", "RGBA", "CMYK", "RGBX")
    if not colour:
        values = np.asarray(image)
        if tags is not None and tags.get(262) == 0:  # zero is white, which Pillow only respects in 8 bits
            values = (1 << bits) - 1 - values.astype(np.int64)
    elif tags is not None and image.mode != "CMYK":
        import tifffile

        # Pillow drops the lower half of each value, and misreads channels stored in separate planes.
        values = tifffile.imread(io.BytesIO(data), key=0)
        values = np.moveaxis(values, 0, -1) if tags.get(284, 1) == 2 else values
        if values.ndim != 3 or values.shape[2] not in (3, 4) or values.dtype != np.uint16:
            raise BadImage(f"{name} has the unsupported layout {values.dtype} {values.shape}: export it as 8-bit RGB.")
    elif bits < 16:
        raise BadImage(f"{name} has {bits}-bit values in an unsupported layout: export it as 8-bit RGB.")
    else:
        values = np.asarray(image).astype(np.uint16) << 8
    least, most = int(values.min(initial=0)), int(values[..., :3].max(initial=0) if colour else values.max(initial=0))
    if least < 0 or most > 65535:
        raise BadImage(f"{name} has 32-bit pixels outside 0..65535: export it as 8-bit RGB.")
    if most >= 1 << bits:
        raise BadImage(f"{name} states {bits} bits but contains values up to {most}: export it as 8-bit RGB.")
    # Not the maximum, as cameras have a few hot pixels.
    every = 1 + int(np.sqrt(values.size / _SAMPLED))
    bright = np.percentile(
        values[::every, ::every, ..., :3] if colour else values[::every, ::every], _BRIGHT_PERCENTILE
    )
    if bits == 16 and bright < 1 << 15:
        raise BadImage(
            f"{name} has 16-bit values, nearly all of at most {bright:.0f}, and does not state how many bits they "
            "use (tag MaxSampleValue, or SignificantBits of OME-XML), so white is unknown: export it as 8-bit RGB."
        )
    if bits == 16:
        scaled = (values >> 8).astype(np.uint8)
    else:  # an alpha channel may use all 16 bits
        scaled = ((values.astype(np.uint32) * 255 + (1 << bits - 1)) // ((1 << bits) - 1)).clip(0, 255).astype(np.uint8)
    found = Image.fromarray(scaled) if image.mode != "CMYK" else image
    if colour and tags is not None and found is not image:
        found.getexif()[_ORIENTATION] = orientation
    kind = "16-bit colour" if colour else "16-bit grey"
    how = "divided by 256" if bits == 16 else f"of {bits} used bits scaled to 8 bits"
    return found, (f"{kind} {how}",)


def _check_compression(data: bytes, name: str) -> None:
    """Refuses a TIFF with a compression or pixel type that Pillow cannot read; ignores a damaged header."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            compression, dtype = tiff.pages[0].compression, tiff.pages[0].dtype
    except Exception:  # not a TIFF, or a damaged one
        return
    # WebP is listed, but Pillow's libtiff is built without it.
    if compression not in TiffImagePlugin.COMPRESSION_INFO or compression == 50001:
        raise unread_compression(compression, name)
    if dtype is not None and dtype not in (np.uint8, np.uint16, np.bool_):
        raise BadImage(f"{name} has pixels of type {dtype}, which has no safe 8-bit RGB conversion: export it as RGB.")


def unread_compression(compression: Any, name: str) -> BadImage:
    """The error for a TIFF with an unsupported compression."""
    called = getattr(compression, "name", "a number that is not registered")
    return BadImage(
        f"{name} is compressed with {called} ({int(compression)}), which is not read: export it with LZW, deflate or "
        "JPEG compression."
    )
