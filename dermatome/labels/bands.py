"""Labels of any size written band by band, so that no whole map need be in memory, and read back by region."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from dermatome.classes import Rgb, TissueClass
from dermatome.errors import BadSetting
from dermatome.geometry import Box, Size
from dermatome.labels.npz import array_member
from dermatome.storage.files import atomic_file

Labels = npt.NDArray[Any]

OME_TILE_PX = 512
_TRACED_WHOLE_PX = 16_000_000
# A slide larger than that has many outlines, and tracing them takes a hundred times a map's own memory.
_TRACED_LARGE_PX = 4_000_000


@contextmanager
def mask_writer(path: Path, size: Size, crop: Box) -> Iterator[Any]:
    """A function that takes a tissue mask band by band from the top; the file is that of ``label_io.save_mask``.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    bbox = np.array([crop.top_px, crop.left_px, crop.bottom_px, crop.right_px], np.int64)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with array_member(archive, "mask", (size.height_px, size.width_px), np.dtype(np.uint8)) as write:
            yield write
        with array_member(archive, "crop_bbox", bbox.shape, bbox.dtype) as write:
            write(bbox)


def write_ome_bands(
    path: Path,
    bands: Iterable[Labels],
    size: Size,
    dtype: npt.DTypeLike,
    mpp: float,
    classes: Mapping[int, tuple[str, Rgb]],
    *,
    name: str = "",
) -> Path:
    """Writes labels as a tiled, deflate-compressed OME-TIFF with its scale, for QuPath, napari and Bio-Formats.

    Args:
        path: of the file.
        bands: (rows, W) of any heights, from the top; taken once, in order.
        size: (H, W) of them all.
        dtype: uint8, uint16 or int32.
        mpp: microns per pixel.
        classes: name and colour of each number, stored as an annotation beside the pixels; may be empty.
        name: of the image; the file's stem where empty.

    Raises:
        BadSetting: a type of number, or an mpp, that the format does not have.
        StorageFailed: the disk is full or the folder not writable.
    """
    import tifffile

    kind = np.dtype(dtype)
    if kind not in (np.uint8, np.uint16, np.int32):
        raise BadSetting(f"OME-TIFF labels are (H, W) uint8, uint16 or int32, not {kind}.")
    options = ome_options(path, size, kind, mpp, classes, name)
    large = size.area_px * kind.itemsize >= 2**31
    with atomic_file(path) as file, tifffile.TiffWriter(Nameless(file), bigtiff=large) as writer:
        writer.write(_tiles(bands, size, kind), shape=(size.height_px, size.width_px), dtype=kind, **options)
    return path


def ome_options(
    path: Path, size: Size, kind: np.dtype[Any], mpp: float, classes: Mapping[int, tuple[str, Rgb]], name: str
) -> dict[str, Any]:
    """How tifffile writes labels of this size and type, as :func:`write_ome_bands` says.

    Raises:
        BadSetting: an mpp that the format does not have.
    """
    if not (math.isfinite(mpp) and mpp > 0):
        raise BadSetting(f"The mpp for {path.name} is {mpp}: give microns per pixel above 0.")
    per_cm = 1e4 / mpp
    return {
        "tile": (OME_TILE_PX, OME_TILE_PX),
        "compression": "zlib",
        "photometric": "minisblack",
        "description": _ome_xml(size, kind, mpp, classes, name or path.stem).encode("ascii", "xmlcharrefreplace"),
        "resolution": (per_cm, per_cm),
        "resolutionunit": "CENTIMETER",
        "software": False,
        "metadata": None,
        "maxworkers": 1,
    }


class LabelTally:
    """What is known of labels once they have gone by in bands: how many of each, their hash, and a map to trace.

    Attributes:
        size: of the labels.
        counts: pixels of each class.
        step_px: the map to trace has one pixel for this many, down and along; 1 up to 16 megapixels.
    """

    def __init__(self, size: Size) -> None:
        """For labels (H, W) uint8 of :class:`TissueClass` of this size."""
        self.size = size
        self.counts = dict.fromkeys(TissueClass, 0)
        large = size.area_px > _TRACED_WHOLE_PX
        self.step_px = math.ceil(math.sqrt(size.area_px / _TRACED_LARGE_PX)) if large else 1
        self._top = 0
        self._hash = hashlib.sha256(repr((size.height_px, size.width_px)).encode())
        self._traced: list[Labels] = []

    def __call__(self, band: Labels) -> None:
        """Takes the next band."""
        for tissue in TissueClass:
            self.counts[tissue] += int(np.count_nonzero(band == tissue))
        self._hash.update(np.ascontiguousarray(band).data)
        first = (self.step_px // 2 - self._top) % self.step_px
        # The nearest pixel, as the middle of a step: at the lower and right rim there may be none, and none is needed.
        self._traced.append(band[first :: self.step_px, self.step_px // 2 :: self.step_px].copy())
        self._top += len(band)

    @property
    def digest(self) -> bytes:
        """Of the shape and all values."""
        return self._hash.digest()

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels by the class's label."""
        return {tissue.label: count / self.size.area_px for tissue, count in self.counts.items()}

    def to_trace(self) -> Labels:
        """(h, w) uint8: every ``step_px``-th pixel."""
        return np.concatenate(self._traced)


class Nameless:
    """A file without a name, which tifffile would take for a path."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, what: str) -> Any:
        if what == "name":
            raise AttributeError(what)
        return getattr(self._file, what)


def _tiles(bands: Iterable[Labels], size: Size, kind: np.dtype[Any]) -> Iterator[Labels]:
    """Tiles of an OME-TIFF, rows first, padded at the image's lower and right rim."""
    across = -(-size.width_px // OME_TILE_PX)
    row = np.zeros((OME_TILE_PX, across * OME_TILE_PX), kind)
    filled, seen = 0, 0
    for band in bands:
        at = 0
        while at < len(band):
            take = min(OME_TILE_PX - filled, len(band) - at)
            row[filled : filled + take, : size.width_px] = band[at : at + take]
            filled, at, seen = filled + take, at + take, seen + take
            if filled == OME_TILE_PX or seen == size.height_px:
                row[filled:] = 0
                for column in range(across):
                    yield row[:, column * OME_TILE_PX : (column + 1) * OME_TILE_PX].copy()
                filled = 0
    if seen != size.height_px:
        raise ValueError(f"{seen} of {size.height_px} rows came")


def _ome_xml(size: Size, kind: np.dtype[Any], mpp: float, classes: Mapping[int, tuple[str, Rgb]], name: str) -> str:
    rows = "".join(
        f"<M K={quoteattr(f'{number} {label}')}>#{bytes(colour).hex()}</M>"
        for number, (label, colour) in sorted(classes.items())
    )
    ref = '<AnnotationRef ID="Annotation:0"/>' if rows else ""
    notes = (
        '<StructuredAnnotations><MapAnnotation ID="Annotation:0" Namespace="dermatome/classes">'
        f"<Description>Number and name of each class, and the colour it is drawn in</Description>"
        f"<Value>{rows}</Value></MapAnnotation></StructuredAnnotations>"
        if rows
        else ""
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation='
        '"http://www.openmicroscopy.org/Schemas/OME/2016-06 '
        'http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd">'
        f'<Image ID="Image:0" Name={quoteattr(name)}>'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{kind.name}" SizeX="{size.width_px}" '
        f'SizeY="{size.height_px}" SizeC="1" SizeZ="1" SizeT="1" PhysicalSizeX="{mpp:.6g}" PhysicalSizeXUnit="µm" '
        f'PhysicalSizeY="{mpp:.6g}" PhysicalSizeYUnit="µm" Interleaved="false">'
        '<Channel ID="Channel:0:0" Name="labels" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"/>'
        f"</Pixels>{ref}</Image>{notes}</OME>"
    )
