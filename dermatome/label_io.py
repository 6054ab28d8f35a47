"""Masks and outlines as files other programs open; the same input always gives the same bytes."""

from __future__ import annotations

import io
import json
import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from dermatome.classes import Rgb, TissueClass
from dermatome.errors import BadAnnotation, BadSetting
from dermatome.files import write_whole
from dermatome.geometry import Box, Size
from dermatome.npz import load_arrays, save_arrays

OME_TILE_PX = 512
_QUPATH_IDS = uuid.UUID("8b1d2a52-6f0e-5b1c-9c7e-0d3f5a4c1e77")
"""Namespace of the ids of outlines, fixed so that the same cell keeps its id."""


def save_mask(path: Path, mask: npt.NDArray[np.uint8], crop: Box) -> Path:
    """Writes a tissue mask as ``.npz``: ``mask`` (H, W) uint8 and ``crop_bbox`` [top, left, bottom, right], px.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    bbox = np.array([crop.top_px, crop.left_px, crop.bottom_px, crop.right_px], np.int64)
    return save_arrays(path, {"mask": np.asarray(mask, np.uint8), "crop_bbox": bbox})


def load_mask(path: Path, *, size: Size | None = None) -> tuple[npt.NDArray[np.uint8], Box]:
    """Reads what :func:`save_mask` wrote; nothing in the file can run code.

    Args:
        path: the ``.npz``.
        size: of the image it must belong to; not checked where None.

    Returns:
        The mask (H, W) uint8, and the crop (the whole mask where the file has none).

    Raises:
        MissingInput: no such file.
        BadAnnotation: not such a file, damaged, larger than any slide may be, with numbers that are no class, or of
            another size than ``size``.
    """
    arrays = load_arrays(path, "mask", "tissue mask", size)
    values = arrays["mask"]
    if values.size and not 0 <= values.min() <= values.max() <= max(TissueClass):
        raise BadAnnotation(
            f"The tissue mask {path} holds numbers from {values.min()} to {values.max()}, and the classes go from 0 to "
            f"{max(TissueClass):d}: make it again with this version."
        )
    whole = Size(*values.shape)
    crop = Box.whole(whole)
    if "crop_bbox" in arrays:
        bbox = [int(edge) for edge in arrays["crop_bbox"].ravel()]
        if len(bbox) != 4 or not Box(*bbox).fits(whole):
            raise BadAnnotation(f"The crop_bbox of {path} is {bbox}, outside its mask: make it again.")
        crop = Box(*bbox)
    return values.astype(np.uint8, copy=False), crop


def write_ome_tiff(
    path: Path, labels: npt.NDArray[Any], mpp: float, classes: Mapping[int, tuple[str, Rgb]], *, name: str = ""
) -> Path:
    """Writes labels as a tiled, deflate-compressed OME-TIFF with its scale, for QuPath, napari and Bio-Formats.

    Args:
        path: of the file.
        labels: (H, W) uint8, uint16 or int32.
        mpp: microns per pixel.
        classes: name and colour of each number, stored as an annotation beside the pixels; may be empty.
        name: of the image; the file's stem where empty.

    Raises:
        BadSetting: a type of number, or an mpp, that the format does not have.
        StorageFailed: the disk is full or the folder not writable.
    """
    import tifffile

    if labels.ndim != 2 or labels.dtype not in (np.uint8, np.uint16, np.int32):
        raise BadSetting(f"OME-TIFF labels are (H, W) uint8, uint16 or int32, not {labels.shape} {labels.dtype}.")
    buffer = io.BytesIO()  # compressed labels are small, and tifffile takes no file without a name
    with tifffile.TiffWriter(buffer, bigtiff=labels.nbytes >= 2**31) as writer:
        writer.write(labels, **ome_options(path, labels, mpp, classes, name))
    return write_whole(path, buffer.getvalue())


def ome_options(
    path: Path, labels: Any, mpp: float, classes: Mapping[int, tuple[str, Rgb]], name: str
) -> dict[str, Any]:
    """How tifffile writes ``labels``, which need a ``shape`` (H, W) and a ``dtype``, as :func:`write_ome_tiff` says.

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
        "description": _ome_xml(labels, mpp, classes, name or path.stem).encode("ascii", "xmlcharrefreplace"),
        "resolution": (per_cm, per_cm),
        "resolutionunit": "CENTIMETER",
        "software": False,
        "metadata": None,
        "maxworkers": 1,
    }


def tissue_geojson(mask: npt.NDArray[np.uint8], *, mpp: float, slide: str) -> bytes:
    """Outlines of the tissue classes as QuPath annotations, one for each class that is there; background has none.

    Args:
        mask: (H, W) uint8 of :class:`~dermatome.classes.TissueClass`.
        mpp: microns per pixel, for the areas.
        slide: its name; ids of the annotations are made from it.
    """
    from dermatome.outlines import trace_polygons

    by_class: dict[int, list[list[list[list[int]]]]] = {}
    for polygon in trace_polygons(mask):
        by_class.setdefault(polygon.label, []).append(polygon.rings)
    features = []
    for number, parts in sorted(by_class.items()):
        tissue = TissueClass(number)
        area_px = int(np.count_nonzero(mask == number))
        measurements = {"area_px": area_px, "area_um2": round(area_px * mpp**2, 3), "pieces": len(parts)}
        kind = {"objectType": "annotation", "isLocked": True}
        features.append(feature(slide, tissue.label, parts, tissue.label, tissue.colour, kind, measurements))
    return _collection(features)


def write_geojson(path: Path, data: bytes) -> Path:
    """Writes the outlines of :func:`tissue_geojson` whole; errors as of any file."""
    return write_whole(path, data)


def feature(
    slide: str,
    name: str,
    parts: list[list[list[list[int]]]],
    label: str,
    colour: Rgb,
    kind: dict[str, Any],
    measurements: Mapping[str, float],
) -> dict[str, Any]:
    """One GeoJSON feature as QuPath reads it, its id made from the slide and its name."""
    single = len(parts) == 1
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_QUPATH_IDS, f"{slide}/{name}")),
        "geometry": {"type": "Polygon", "coordinates": parts[0]}
        if single
        else {"type": "MultiPolygon", "coordinates": parts},
        "properties": {
            **kind,
            "name": name,
            "classification": {"name": label, "color": list(colour)},
            "measurements": dict(measurements),
        },
    }


def _collection(features: list[dict[str, Any]]) -> bytes:
    collection = {"type": "FeatureCollection", "features": features}
    return json.dumps(collection, separators=(",", ":"), allow_nan=False).encode()


def _ome_xml(labels: npt.NDArray[Any], mpp: float, classes: Mapping[int, tuple[str, Rgb]], name: str) -> str:
    height_px, width_px = labels.shape
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
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="{labels.dtype.name}" SizeX="{width_px}" '
        f'SizeY="{height_px}" SizeC="1" SizeZ="1" SizeT="1" PhysicalSizeX="{mpp:.6g}" PhysicalSizeXUnit="µm" '
        f'PhysicalSizeY="{mpp:.6g}" PhysicalSizeYUnit="µm" Interleaved="false">'
        '<Channel ID="Channel:0:0" Name="labels" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"/>'
        f"</Pixels>{ref}</Image>{notes}</OME>"
    )
