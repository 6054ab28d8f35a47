"""Masks and outlines as files other programs open; the same input always gives the same bytes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import Rgb, TissueClass
from dermatome.errors import BadAnnotation, BadSetting, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels.bands import LabelTally, write_ome_bands
from dermatome.labels.npz import load_arrays, save_arrays
from dermatome.slides.tiled_tiff import TiledLabels
from dermatome.storage.files import write_atomic

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
    if labels.ndim != 2:
        raise BadSetting(f"OME-TIFF labels are (H, W), not of shape {labels.shape}.")
    return write_ome_bands(path, [labels], Size(*labels.shape), labels.dtype, mpp, classes, name=name)


def open_mask(path: Path) -> TiledLabels:
    """A mask or map of any size, of which ``mask[top:bottom, left:right]`` decodes only the tiles touched.

    Small reads of a large map are what it is for: a tile is kept for a while after it was read, and several threads may
    read. ``mask.size`` and ``mask.shape`` give its size.

    Args:
        path: an OME-TIFF that :func:`write_ome_tiff` or the mask stage wrote (``mask.ome.tif``, ``cells.ome.tif``).

    Raises:
        MissingInput: no such file.
        BadImage: damaged, or not such a file.
    """
    if not path.is_file():
        raise MissingInput(f"There is no mask {path}: make it with the stage before.")
    return TiledLabels(path)


def tissue_geojson(found: LabelTally, *, mpp: float, slide: str) -> bytes:
    """Outlines of the tissue classes as QuPath annotations, one for each class that is there; background has none.

    Up to 16 megapixels they follow every pixel edge; those of a larger slide are drawn on every ``step_px``-th pixel,
    while areas always count every pixel.

    Args:
        found: what :class:`~dermatome.labels.bands.LabelTally` saw of the mask.
        mpp: microns per pixel, for the areas.
        slide: its name; ids of the annotations are made from it.
    """
    from dermatome.labels.outlines import trace_polygons

    step_px, size = found.step_px, found.size

    by_class: dict[int, list[list[list[list[int]]]]] = {}
    for polygon in trace_polygons(found.to_trace()):
        rings = [np.minimum(ring * step_px, (size.width_px, size.height_px)) for ring in polygon.rings]
        by_class.setdefault(polygon.label, []).append([ring.tolist() for ring in rings])
    features = []
    for number, parts in sorted(by_class.items()):
        tissue = TissueClass(number)
        area_px = found.counts[tissue]
        measurements = {"area_px": area_px, "area_um2": round(area_px * mpp**2, 3), "pieces": len(parts)}
        kind = {"objectType": "annotation", "isLocked": True}
        features.append(feature(slide, tissue.label, parts, tissue.label, tissue.colour, kind, measurements))
    return _collection(features)


def write_geojson(path: Path, data: bytes) -> Path:
    """Writes the outlines of :func:`tissue_geojson` whole; errors as of any file."""
    return write_atomic(path, data)


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
