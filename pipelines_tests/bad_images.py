"""A catalogue of bad and odd image files, made by code, each with what must become of it.

Every file is either read, with the conversions that are said of it, or refused with a sentence that names the cause.
The unit tests decode each; the soak test puts them all into the inbox of a running platform.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from dermatome.slides.slide import WHOLE_PX

HEIGHT_PX, WIDTH_PX = 80, 96
_DAMAGED = "damaged or cut short"
_HEADER = "its header is damaged or of an unsupported kind"
_STRANGE = "not a JPEG, PNG or TIFF image"


@dataclass(frozen=True)
class OddFile:
    """One file of the catalogue.

    Attributes:
        name: fit to be a slide id.
        suffix: with its dot; often not what the file is.
        data: its bytes.
        reads: part of what :attr:`Slide.conversions` says; empty for a file read as it is; None for one
            that is refused.
        refused: part of the sentence it is refused with; None for one that is read.
        shape: height and width it has once it is read, px.
        same: whether its pixels are those of :func:`picture`, but for what JPEG loses.
    """

    name: str
    suffix: str
    data: bytes
    reads: str | None = None
    refused: str | None = None
    shape: tuple[int, int] = (HEIGHT_PX, WIDTH_PX)
    same: bool = True

    @property
    def file(self) -> str:
        """Its file name."""
        return f"{self.name}{self.suffix}"


@cache
def picture() -> np.ndarray:
    """(80, 96, 3) uint8, smooth and in colour, so that JPEG loses little and swapped channels are seen."""
    down, across = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX]
    planes = (40 + 2 * across, 230 - 2 * down, 120 + across - down)
    return np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)


@cache
def catalogue() -> tuple[OddFile, ...]:
    """Every file; at names no other has."""
    return tuple(file for part in (_jpegs, _pngs, _tiffs, _others) for file in part())


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    """A TIFF as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def _read(name: str, suffix: str, data: bytes, said: str = "", **changes: object) -> OddFile:
    return OddFile(name, suffix, data, reads=said, **changes)


def _refused(name: str, suffix: str, data: bytes, said: str) -> OddFile:
    return OddFile(name, suffix, data, refused=said)


# --- JPEG


def _jpegs() -> Iterator[OddFile]:
    rgb = Image.fromarray(picture())
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8))
    jpeg, long = saved(rgb, "JPEG", quality=95), saved(noise, "JPEG", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 6

    yield _read("jpeg-plain", ".jpg", jpeg)
    yield _refused("jpeg-cut", ".jpg", long[: len(long) // 2], _DAMAGED)
    yield _refused("jpeg-cut-in-header", ".jpg", jpeg[:200], _DAMAGED)
    yield _refused("jpeg-only-start", ".jpg", jpeg[:2], _STRANGE)
    yield _refused("jpeg-start-and-end", ".jpg", b"\xff\xd8\xff\xd9", _HEADER)
    # What a download leaves that reserved the file's length beforehand.
    yield _refused("jpeg-filled-up-with-zeros", ".jpg", long[: len(long) // 2] + bytes(len(long) // 2), _DAMAGED)
    yield _read("jpeg-garbage-behind", ".jpg", jpeg + b"garbage \xff\xd8" * 500)
    yield _read("jpeg-two-in-a-row", ".jpg", jpeg + long)
    yield _refused("jpeg-two-starts", ".jpg", b"\xff\xd8" + jpeg, _DAMAGED)
    yield _read("jpeg-progressive", ".jpg", saved(rgb, "JPEG", quality=95, progressive=True))
    yield _read("jpeg-restart-markers", ".jpg", saved(rgb, "JPEG", quality=95, restart_marker_blocks=2))
    lossless = imagecodecs.ljpeg_encode(picture()[..., 0].copy())
    yield _read("jpeg-lossless", ".jpg", lossless, "grey repeated", same=False)
    yield _refused("jpeg-12-bit", ".jpg", _jpeg_of_precision(jpeg, 12), _HEADER)
    yield _read("jpeg-cmyk", ".jpg", saved(rgb.convert("CMYK"), "JPEG", quality=95), "CMYK turned into RGB")
    yield _read("jpeg-grey", ".jpg", saved(rgb.convert("L"), "JPEG"), "grey repeated", same=False)
    upright = saved(rgb.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    yield _read("jpeg-lying-by-exif", ".jpg", upright, "turned upright")
    yield _read("jpeg-exif-is-garbage", ".jpg", _with_segment(jpeg, 0xE1, b"Exif\0\0" + bytes(range(256)) * 20))
    yield _read("jpeg-exif-is-huge", ".jpg", _with_segment(jpeg, 0xE1, b"Exif\0\0MM\0*" + b"\xff" * 65_000, times=40))
    yield _read("jpeg-profile-is-junk", ".jpg", _with_segment(jpeg, 0xE2, b"ICC_PROFILE\0\x01\x01" + b"junk" * 500))
    yield _read("jpeg-long-comments", ".jpg", _with_segment(jpeg, 0xFE, b"c" * 65_000, times=20))
    yield _refused("jpeg-huge-declared", ".jpg", _jpeg_of_size(jpeg, 65_000, 65_000), "over the limit")
    yield _refused("jpeg-of-no-height", ".jpg", _jpeg_of_size(jpeg, 0, WIDTH_PX), _HEADER)
    yield _refused("jpeg-taller-than-its-data", ".jpg", _jpeg_of_size(jpeg, 9_000, 9_000), _DAMAGED)
    # Decoders know the usual tables, which motion JPEG leaves out.
    yield _read("jpeg-without-tables", ".jpg", jpeg.replace(b"\xff\xc4", b"\xff\xfe"))
    yield _refused("jpeg-cut-and-ended", ".jpg", long[: len(long) // 2] + b"\xff\xd9", _DAMAGED)
    yield _refused("jpeg-huffman-named-arithmetic", ".jpg", long.replace(b"\xff\xc0", b"\xff\xc9", 1), _DAMAGED)


def _with_segment(jpeg: bytes, marker: int, content: bytes, *, times: int = 1) -> bytes:
    segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    return jpeg[:2] + segment * times + jpeg[2:]


def _jpeg_of_size(jpeg: bytes, height: int, width: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def _jpeg_of_precision(jpeg: bytes, bits: int) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 4
    return jpeg[:at] + bytes([bits]) + jpeg[at + 1 :]


# --- PNG


def _pngs() -> Iterator[OddFile]:
    rgb, pixels = Image.fromarray(picture()), picture()
    png = saved(rgb, "PNG")
    opaque = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    clear = np.dstack([pixels, np.zeros(pixels.shape[:2], np.uint8)])
    deep = _png_of(16, 2, (pixels.astype(">u2") * 257).view(np.uint8).reshape(HEIGHT_PX, -1))
    broken = bytearray(png)
    broken[png.index(b"IDAT") + 30] ^= 0x55

    yield _read("png-plain", ".png", png)
    yield _refused("png-cut", ".png", png[: len(png) // 2], _DAMAGED)
    yield _refused("png-bad-checksum", ".png", bytes(broken), _DAMAGED)
    yield _refused("png-header-checksum", ".png", png[:29] + b"\0\0\0\0" + png[33:], _HEADER)
    yield _read("png-interlaced", ".png", _interlaced(pixels))
    yield _read("png-16-bit-colour", ".png", deep, "16-bit colour divided by 256")
    grey16 = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    yield _read("png-16-bit-grey", ".png", saved(grey16, "PNG"), "16-bit grey divided by 256", same=False)
    yield _read("png-palette", ".png", saved(rgb.quantize(256), "PNG"), "palette", same=False)
    yield _read("png-one-bit", ".png", saved(rgb.convert("1"), "PNG"), "grey repeated", same=False)
    yield _read("png-opaque-alpha", ".png", saved(Image.fromarray(opaque), "PNG"), "transparency laid on white")
    yield _read("png-all-clear", ".png", saved(Image.fromarray(clear), "PNG"), "transparency", same=False)
    yield _read("png-grey-alpha", ".png", saved(rgb.convert("LA"), "PNG"), "transparency laid on white", same=False)
    see_through = saved(rgb.quantize(64), "PNG", transparency=3)
    yield _read("png-palette-alpha", ".png", see_through, "transparency laid on white", same=False)
    moving = saved(rgb, "PNG", save_all=True, append_images=[Image.new("RGB", rgb.size)])
    yield _read("png-moving", ".png", moving, "the first of several pages")
    yield _read("png-garbage-behind", ".png", png + b"garbage" * 500)
    yield _refused(
        "png-huge-declared", ".png", _png_of(8, 2, None, height=2_000_000, width=2_000_000), "over the limit"
    )
    yield _refused("png-large-and-empty", ".png", _png_of(8, 2, None, height=19_000, width=19_000), _DAMAGED)
    yield _refused("png-of-no-width", ".png", _png_of(8, 2, None, height=5, width=0), _HEADER)
    yield _refused("png-text-bomb", ".png", _png_with_text(png, 150_000_000), _DAMAGED)
    yield _read("png-pixel-bomb", ".png", _png_of(8, 2, pixels.reshape(HEIGHT_PX, -1), more=150_000_000))
    yield _read("png-all-white", ".png", saved(Image.new("RGB", (96, 80), "white"), "PNG"), same=False)
    yield _read("png-all-black", ".png", saved(Image.new("RGB", (96, 80)), "PNG"), same=False)
    yield _read("png-one-pixel", ".png", saved(rgb.crop((0, 0, 1, 1)), "PNG"), shape=(1, 1), same=False)
    yield _read("png-a-line", ".png", saved(rgb.resize((5000, 1)), "PNG"), shape=(1, 5000), same=False)
    yield _read("png-a-column", ".png", saved(rgb.resize((1, 5000)), "PNG"), shape=(5000, 1), same=False)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png_of(
    bits: int,
    colour: int,
    rows: np.ndarray | None,
    *,
    height: int = HEIGHT_PX,
    width: int = WIDTH_PX,
    interlaced: bool = False,
    more: int = 0,
) -> bytes:
    """A PNG of ``rows`` (H, bytes a row), with ``more`` zero bytes behind them in the deflated stream."""
    pack = zlib.compressobj(1)
    plain = b"" if rows is None else b"".join(b"\0" + row.tobytes() for row in rows)
    packed = pack.compress(plain) + b"".join(pack.compress(bytes(1 << 20)) for _ in range(more >> 20)) + pack.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")


def _interlaced(pixels: np.ndarray) -> bytes:
    """As PNG's Adam7 has it: seven passes over ever finer grids."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [
        b"\0" + row.tobytes()
        for top, left, down, across in passes
        for row in pixels[top::down, left::across].reshape(len(pixels[top::down]), -1)
    ]
    data = _png_of(8, 2, None, interlaced=True)
    start, end = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:start] + _chunk(b"IDAT", zlib.compress(b"".join(rows))) + data[end:]


def _png_with_text(png: bytes, size: int) -> bytes:
    pack = zlib.compressobj(1)
    packed = b"".join(pack.compress(bytes(1 << 20)) for _ in range(size >> 20)) + pack.flush()
    return png[:33] + _chunk(b"zTXt", b"Comment\0\0" + packed) + png[33:]


# --- TIFF


def _tiffs() -> Iterator[OddFile]:
    pixels = picture()
    plain, tiled = _tiff(pixels), _tiff(_large(), tile=(64, 64), compression="jpeg")
    deflated = _tiff(_large(), tile=(64, 64), compression="zlib")
    large = {"shape": (320, 384), "same": False}

    yield _read("tiff-plain", ".tif", plain)
    yield _read("tiff-tiled-jpeg", ".tif", tiled, **large)
    yield _read("tiff-tiled-deflate", ".tif", deflated, **large)
    yield _read("tiff-lzw", ".tif", _tiff(pixels, compression="lzw", predictor=True))
    yield _read("tiff-planar", ".tif", _tiff(np.ascontiguousarray(pixels.transpose(2, 0, 1)), planarconfig="separate"))
    yield _read("tiff-big", ".tif", _tiff(pixels, bigtiff=True))
    yield _read("tiff-big-endian", ".tif", _tiff(pixels, byteorder=">"))
    deep = pixels.astype(np.uint16) * 257
    yield _read("tiff-16-bit-colour", ".tif", _tiff(deep), "16-bit colour divided by 256")
    pages = np.stack([pixels, pixels[::-1], pixels])
    yield _read("tiff-three-pages", ".tif", _tiff(pages), "the first of several pages")
    yield _read("tiff-named-jpg", ".jpg", plain)
    yield _read("tiff-no-resolution-unit", ".tif", _with_tag(plain, 296, 77))
    yield _refused("tiff-cut", ".tif", _tiff(_large())[:9000], _DAMAGED)
    yield _refused("tiff-cut-in-header", ".tif", plain[:6], _HEADER)
    yield _refused("tiff-tile-offset-outside", ".tif", _with_offset(deflated, 324, 10**9), _DAMAGED)
    yield _refused("tiff-tile-bytes-short", ".tif", _with_offset(deflated, 325, 20), _DAMAGED)
    yield _refused("tiff-tile-bytes-huge", ".tif", _with_offset(deflated, 325, 4 * 10**9), _DAMAGED)
    yield _refused("tiff-last-tile-is-garbage", ".tif", _last_tile(deflated, b"\x55" * 40), _DAMAGED)
    yield _refused("tiff-jpeg-tile-is-garbage", ".tif", _last_tile(tiled, b"\x55" * 40), _DAMAGED)
    yield _read("tiff-directories-in-a-loop", ".tif", _looped(plain))
    yield _refused("tiff-unknown-compression", ".tif", _with_tag(plain, 259, 50_505), "compressed with")
    # Tiled TIFFs of that size are read in parts, and this one lacks most of its parts.
    yield _refused("tiff-huge-declared", ".tif", _with_tag(_with_tag(plain, 256, 60_000), 257, 60_000), _DAMAGED)
    yield _refused("tiff-larger-than-its-data", ".tif", _with_tag(plain, 257, 15_000), _DAMAGED)
    yield _refused("tiff-directory-outside", ".tif", plain[:4] + struct.pack("<I", 10**9) + plain[8:], _HEADER)
    yield _refused("tiff-no-tags", ".tif", b"II*\0\x08\0\0\0" + bytes(6), _HEADER)
    holes = pixels.astype(np.float32)
    holes[3:5] = np.nan
    yield _refused("tiff-float-with-nan", ".tif", _tiff(holes), "no safe 8-bit RGB conversion")
    yield _refused("tiff-float-grey", ".tif", _tiff(holes[..., 0]), "no safe 8-bit RGB conversion")
    yield _refused("tiff-32-bit", ".tif", _tiff(deep[..., 0].astype(np.int32) * 9 - 5), "32-bit pixels outside")
    five = np.dstack([pixels, pixels[..., :2]])
    yield _refused("tiff-five-channels", ".tif", _tiff(five, photometric="minisblack", planarconfig="contig"), _HEADER)
    inverted = _tiff(255 - pixels[..., 0], photometric="miniswhite")
    yield _read("tiff-white-is-zero", ".tif", inverted, "grey repeated", same=False)
    yield from _tiffs_in_parts()
    deflate_bomb = _last_tile(deflated, zlib.compress(bytes(150_000_000), 1))
    yield _read("tiff-deflate-bomb", ".tif", deflate_bomb, **large)
    bomb = _tile_bomb(20_000)
    yield _refused("tiff-tile-bomb", ".tif", bomb, "in tiles of 20000×20000 px")
    yield _refused(
        "tiff-tile-bomb-as-strip", ".tif", _renamed(bomb, {324: 273, 325: 279}), "in tiles of 20000×20000 px"
    )
    # A minute and more, were they counted.
    yield _read("tiff-many-pages", ".tif", _chained(plain, 50_000), "the first of several pages")
    yield _read("tiff-second-page-lacks-height", ".tif", _chained(plain, 1, without=257), "the first of several pages")
    yield _refused("tiff-tile-size-is-text", ".tif", _with_kind(deflated, 322, 2), _DAMAGED)


def _tiffs_in_parts() -> Iterator[OddFile]:
    """TIFFs that are too large to be decoded whole: only their tiles are, each by itself."""
    side = int(WHOLE_PX**0.5) + 200
    good = _tiff_of_tiles(side)
    yield _read("tiff-in-parts", ".tif", good, "read in parts", shape=(side, side), same=False)
    yield _refused("tiff-in-parts-last-is-garbage", ".tif", _last_tile(good, b"\x55" * 40), "damaged in its part")
    bomb = _last_tile(good, zlib.compress(bytes(150_000_000), 1))
    yield _refused("tiff-in-parts-deflate-bomb", ".tif", bomb, "damaged in its part")
    yield _refused("tiff-in-parts-offset-outside", ".tif", _with_offset(good, 324, 10**9), _DAMAGED)
    yield _refused("tiff-in-parts-cut", ".tif", good[: len(good) // 2], _DAMAGED)
    yield _refused("tiff-in-parts-too-long", ".tif", _with_tag(good, 256, 200_000), "over the limit")
    lying = _with_tag(good, 274, 6)
    yield _refused("tiff-in-parts-lying", ".tif", lying, "too large to be turned")


def _tiff_of_tiles(side: int) -> bytes:
    """A square TIFF of 512² tiles that are all the same."""
    tile = zlib.compress(np.full((512, 512, 3), 200, np.uint8).tobytes(), 1)
    buffer = io.BytesIO()
    tiles = [tile] * (-(-side // 512)) ** 2
    with tifffile.TiffWriter(buffer) as writer:
        options = {"photometric": "rgb", "metadata": None, "extratags": [(274, "H", 1, 1, True)]}
        writer.write(iter(tiles), shape=(side, side, 3), dtype=np.uint8, tile=(512, 512), compression="zlib", **options)
    return buffer.getvalue()


def _large() -> np.ndarray:
    return np.kron(picture(), np.ones((4, 4, 1), np.uint8))


def _tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    chosen = {"photometric": "rgb" if pixels.ndim > 2 else "minisblack", "metadata": None, **options}
    byteorder, big = chosen.pop("byteorder", "<"), chosen.pop("bigtiff", False)
    with tifffile.TiffWriter(buffer, byteorder=byteorder, bigtiff=big) as writer:
        writer.write(pixels, **chosen)
    return buffer.getvalue()


def _entries(tiff: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Of the first directory of a small-endian classic TIFF: tag, type, count, and where its value stands."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    for number in range(count):
        at = start + 2 + 12 * number
        tag, kind, values = struct.unpack_from("<HHI", tiff, at)
        yield tag, kind, values, at + 8


def _tile_bomb(side: int) -> bytes:
    """:func:`picture`'s size in one tile of ``side``², of which all but a little compresses to nothing."""
    pack = zlib.compressobj(1)
    tile = b"".join(pack.compress(bytes(3 * side)) for _ in range(side)) + pack.flush()
    small = _last_tile(_tiff(picture(), tile=(128, 128), compression="zlib"), tile)
    return _with_tag(_with_tag(small, 322, side), 323, side)


def _chained(tiff: bytes, times: int, *, without: int = 0) -> bytes:
    """``times`` more pages, which are the first's directory again, behind it; without one of its tags."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = [tiff[at : at + 12] for at in range(start + 2, start + 2 + 12 * count, 12)]
    kept = b"".join(entry for entry in entries if struct.unpack_from("<H", entry)[0] != without)
    page = struct.pack("<H", len(kept) // 12) + kept
    first = len(tiff)
    after = [first + (len(page) + 4) * number for number in range(1, times)] + [0]
    at = start + 2 + 12 * count
    chained = b"".join(page + struct.pack("<I", following) for following in after)
    return tiff[:at] + struct.pack("<I", first) + tiff[at + 4 :] + chained


def _renamed(tiff: bytes, tags: dict[int, int]) -> bytes:
    """Tags numbered otherwise, out of order."""
    data = bytearray(tiff)
    for tag, _, _, at in _entries(tiff):
        struct.pack_into("<H", data, at - 8, tags.get(tag, tag))
    return bytes(data)


def _with_kind(tiff: bytes, tag: int, kind: int) -> bytes:
    """A tag whose value is of another type."""
    data = bytearray(tiff)
    at = next(at for found, _, _, at in _entries(tiff) if found == tag)
    struct.pack_into("<H", data, at - 6, kind)
    return bytes(data)


def _with_tag(tiff: bytes, tag: int, value: int) -> bytes:
    """A tag of one value set to another."""
    at, kind = next((at, kind) for found, kind, _, at in _entries(tiff) if found == tag)
    packed = struct.pack("<H" if kind == 3 else "<I", value)
    return tiff[:at] + packed + tiff[at + len(packed) :]


def _with_offset(tiff: bytes, tag: int, value: int, *, index: int = -1) -> bytes:
    """One of the tiles' offsets (tag 324) or byte counts (325) set to another; the last by default."""
    at, kind, count = next((at, kind, count) for found, kind, count, at in _entries(tiff) if found == tag)
    width = 2 if kind == 3 else 4
    (start,) = struct.unpack_from("<I", tiff, at)
    place = start + width * (index % count)
    # A count of 16 bits cannot be huge: its largest is as wrong.
    packed = struct.pack("<H", min(value, 65_535)) if width == 2 else struct.pack("<I", value)
    return tiff[:place] + packed + tiff[place + width :]


def _last_tile(tiff: bytes, data: bytes) -> bytes:
    """Other bytes in place of the last tile's."""
    return _with_offset(_with_offset(tiff + data, 324, len(tiff)), 325, len(data))


def _looped(tiff: bytes) -> bytes:
    """The first directory names itself as the next."""
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    at = start + 2 + 12 * count
    return tiff[:at] + struct.pack("<I", start) + tiff[at + 4 :]


# --- what is no JPEG, PNG or TIFF


def _others() -> Iterator[OddFile]:
    rgb = Image.fromarray(picture())
    kinds: dict[str, Callable[[], bytes]] = {
        "gif": lambda: saved(rgb, "GIF"), "webp": lambda: saved(rgb, "WEBP"), "bmp": lambda: saved(rgb, "BMP"),
        "jpeg-2000": lambda: imagecodecs.jpeg2k_encode(picture()), "pdf": lambda: saved(rgb, "PDF"),
        "zip": lambda: b"PK\x03\x04" + bytes(500), "text": lambda: b"404 page not found\n",
        "zeros": lambda: bytes(5000),
    }  # fmt: skip
    for kind, make in kinds.items():
        yield _refused(f"other-{kind}", ".jpg", make(), _STRANGE)
    yield _refused("other-empty", ".jpg", b"", "is empty")
    yield _refused("other-html", ".jpg", b"\n <!DOCTYPE html><html><body>Log in</body></html>", "web page")
    yield _refused("other-svg", ".jpg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "web page")
    yield _read("other-png-named-tif", ".tif", saved(rgb, "PNG"))
    yield _read("other-jpeg-named-png", ".png", saved(rgb, "JPEG", quality=95))
