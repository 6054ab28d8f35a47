"""Masks and maps as tiled OME-TIFF files, which QuPath, napari and Bio-Formats open with scale and class names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from dermatome.classes import Rgb
from dermatome.errors import BadSetting, MissingInput
from dermatome.labels.tiled import TiledArray
from dermatome.slides.tiled_tiff import TiledLabels
from dermatome.storage.files import atomic_file


def write_ome_tiff(
    path: Path,
    labels: TiledArray,
    mpp: float,
    classes: Mapping[int, tuple[str, Rgb]] | None = None,
    *,
    name: str = "",
    warning: str = "",
) -> Path:
    """Writes labels as a tiled, deflate-compressed OME-TIFF; equal labels give equal bytes.

    Args:
        path: path of the file.
        labels: (H, W) uint8, uint16 or int32; its compressed tiles are copied unchanged.
        mpp: microns per pixel.
        classes: name and colour of each number, stored as an annotation of the image.
        name: name of the image; by default the file's stem.
        warning: stored as the description of the image.

    Raises:
        BadSetting: the type of ``labels`` is not supported, or ``mpp`` is not a positive number.
        StorageFailed: the disk is full or the folder is not writable.
    """
    import tifffile

    if labels.dtype not in (np.uint8, np.uint16, np.int32):
        raise BadSetting(f"OME-TIFF labels are uint8, uint16 or int32, not {labels.dtype}.")
    if not (math.isfinite(mpp) and mpp > 0):
        raise BadSetting(f"The mpp for {path.name} is {mpp}: give microns per pixel above 0.")
    height, width = labels.shape
    per_cm = 1e4 / mpp
    large = height * width * labels.dtype.itemsize >= 2**31
    with atomic_file(path) as file, tifffile.TiffWriter(_Nameless(file), bigtiff=large) as writer:
        writer.write(
            labels.deflated(),
            shape=labels.shape,
            dtype=labels.dtype,
            tile=(labels.tile_px, labels.tile_px),
            compression="zlib",
            photometric="minisblack",
            description=_xml(labels, mpp, classes or {}, name or path.stem, warning).encode(
                "ascii", "xmlcharrefreplace"
            ),
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            software=False,
            metadata=None,
            maxworkers=1,
        )
    return path


def open_ome_tiff(path: Path) -> TiledLabels:
    """Opens a file of :func:`write_ome_tiff`; ``mask[top:bottom, left:right]`` decodes only the tiles it needs.

    Several threads may read at once. Recently used tiles are cached.

    Raises:
        MissingInput: there is no such file.
        BadImage: the file is damaged, or was not written by :func:`write_ome_tiff`.
    """
    if not path.is_file():
        raise MissingInput(f"There is no mask {path}: run the stage that writes it.")
    return TiledLabels(path)


class _Nameless:
    """Wraps a file to hide its name, which tifffile would take for a path."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __getattr__(self, what: str) -> Any:
        if what == "name":
            raise AttributeError(what)
        return getattr(self._file, what)


def _xml(labels: TiledArray, mpp: float, classes: Mapping[int, tuple[str, Rgb]], name: str, warning: str) -> str:
    height, width = labels.shape
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
        f"{f'<Description>{escape(warning)}</Description>' if warning else ''}"
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{labels.dtype.name}" SizeX="{width}" '
        f'SizeY="{height}" SizeC="1" SizeZ="1" SizeT="1" PhysicalSizeX="{mpp:.6g}" PhysicalSizeXUnit="µm" '
        f'PhysicalSizeY="{mpp:.6g}" PhysicalSizeYUnit="µm" Interleaved="false">'
        '<Channel ID="Channel:0:0" Name="labels" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"/>'
        f"</Pixels>{ref}</Image>{notes}</OME>"
    )
