"""Outlines of tissue, cells and nuclei as GeoJSON that QuPath imports; equal labels give equal bytes."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import Rgb, TissueClass
from dermatome.geometry import Box, Size
from dermatome.labels.outlines import trace_polygons
from dermatome.labels.tiled import TiledArray
from dermatome.storage.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd

Feature = dict[str, Any]
Rings = list[list[list[int]]]

_IDS = uuid.UUID("8b1d2a52-6f0e-5b1c-9c7e-0d3f5a4c1e77")
"""Fixed namespace for the ids of outlines, so that the same cell keeps its id."""
_CELL_COLOUR: Rgb = (0, 158, 115)
_BLOCK_PX = 2048
_TRACED_WHOLE_PX = 16_000_000
_TRACED_LARGE_PX = 4_000_000
"""Larger masks are sampled down to this size for tracing: they have many outlines, and tracing takes a hundred times
the memory of the mask."""


def write_geojson(path: Path, features: Iterable[Feature], *, warning: str = "") -> Path:
    """Writes features as they are yielded; ``warning``, if not empty, becomes a member of the collection.

    Raises:
        StorageFailed: the disk is full or the folder is not writable.
    """
    with atomic_file(path) as file:
        note = f'"warning":{json.dumps(warning)},' if warning else ""
        file.write(f'{{"type":"FeatureCollection",{note}"features":['.encode())
        for number, feature in enumerate(features):
            data = json.dumps(feature, separators=(",", ":"), allow_nan=False)
            file.write(("," * (number > 0) + data).encode())
        file.write(b"]}")
    return path


@dataclass(frozen=True)
class MaskSummary:
    """Facts about a tissue mask.

    Attributes:
        size: size of the mask.
        counts: pixels of each class.
        digest: hash of the mask's shape and values.
        step_px: sampling step of ``sampled``; 1 up to 16 megapixels.
        sampled: (h, w) uint8, every ``step_px``-th pixel of the mask.
    """

    size: Size
    counts: dict[TissueClass, int]
    digest: bytes
    step_px: int
    sampled: npt.NDArray[np.uint8]

    @property
    def shares(self) -> dict[str, float]:
        """Share of the mask's pixels in each class, by the class's label."""
        return {tissue.label: count / self.size.area_px for tissue, count in self.counts.items()}


def summarise_mask(mask: TiledArray) -> MaskSummary:
    """Summarises a tissue mask (H, W) uint8 in one pass, in bands."""
    size = Size(*mask.shape)
    counts = np.zeros(len(TissueClass), np.int64)
    step_px = math.ceil(math.sqrt(size.area_px / _TRACED_LARGE_PX)) if size.area_px > _TRACED_WHOLE_PX else 1
    digest = hashlib.sha256(repr((size.height_px, size.width_px)).encode())
    sampled: list[npt.NDArray[np.uint8]] = []
    top = 0
    for band in mask.bands():
        counts += [np.count_nonzero(band == tissue) for tissue in TissueClass]  # np.bincount takes six times as long
        digest.update(band.data)
        # The pixel nearest to the middle of each step; at the lower and right edge there may be none.
        sampled.append(band[(step_px // 2 - top) % step_px :: step_px, step_px // 2 :: step_px].copy())
        top += len(band)
    by_class = {tissue: int(counts[tissue]) for tissue in TissueClass}
    return MaskSummary(size, by_class, digest.digest(), step_px, np.concatenate(sampled))


def tissue_features(summary: MaskSummary, *, mpp: float, slide: str) -> Iterator[Feature]:
    """Yields a QuPath annotation for each tissue class that is present, except the background.

    Up to 16 megapixels, outlines follow every pixel edge; those of a larger slide are drawn on every ``step_px``-th
    pixel. Areas always count every pixel.

    Args:
        summary: facts about the mask.
        mpp: microns per pixel, for the areas.
        slide: name of the slide; ids of the annotations are derived from it.
    """
    step_px, limit = summary.step_px, (summary.size.width_px, summary.size.height_px)
    by_class: dict[int, list[Rings]] = {}
    for polygon in trace_polygons(summary.sampled):
        rings = [np.minimum(ring * step_px, limit).tolist() for ring in polygon.rings]
        by_class.setdefault(polygon.label, []).append(rings)
    for number, parts in sorted(by_class.items()):
        tissue = TissueClass(number)
        area_px = summary.counts[tissue]
        measurements = {"area_px": area_px, "area_um2": round(area_px * mpp**2, 3), "pieces": len(parts)}
        kind = {"objectType": "annotation"}  # unlocked, so that users can correct it
        yield _feature(slide, tissue.label, parts, tissue.label, tissue.colour, kind, measurements)


def object_features(
    instances: TiledArray,
    table: pd.DataFrame,
    *,
    slide: str,
    what: str = "cell",
    classes: Mapping[str, Rgb] | None = None,
) -> Iterator[Feature]:
    """Yields a QuPath detection for each cell or nucleus, block by block, with the numbers of its row as measurements.

    Args:
        instances: (H, W) int32, 0 background.
        table: a row for each object, with ``cell_id`` or ``nucleus_id``; its other numbers become measurements, nulls
            are left out.
        slide: name of the slide; ids of the detections are derived from it.
        what: ``cell`` or ``nucleus``.
        classes: colour of each class, if the objects have classes in the column ``class``.
    """
    rows = dict(zip(table[f"{what}_id"], _measurements(table), strict=True))
    kinds = {} if classes is None else dict(zip(table[f"{what}_id"], table["class"], strict=True))
    for number, parts in _outlines(instances):
        kind = str(kinds.get(number, what))
        colour = (classes or {}).get(kind, _CELL_COLOUR)
        name, measurements = f"{what} {number}", rows.get(number, {})
        yield _feature(slide, name, parts, kind, colour, {"objectType": "detection"}, measurements)


def region_features(
    labels: TiledArray, classes: Mapping[int, tuple[str, Rgb]], table: pd.DataFrame, *, slide: str
) -> Iterator[Feature]:
    """Yields a QuPath annotation for each number of a map, such as a layer, in the order of the numbers.

    Args:
        labels: (H, W) uint16 or int32, 0 background.
        classes: name and colour of each number.
        table: a row for each number 1, 2, …; its numbers become measurements, nulls are left out.
        slide: name of the slide; ids of the annotations are derived from it.
    """
    parts: dict[int, list[Rings]] = {}
    for number, found in _outlines(labels):
        parts.setdefault(number, []).extend(found)
    rows = _measurements(table)
    for number in sorted(parts):
        name, colour = classes[number]
        kind = {"objectType": "annotation", "isLocked": True}
        yield _feature(slide, name, parts[number], name, colour, kind, rows[number - 1])


def _measurements(table: pd.DataFrame) -> list[dict[str, float]]:
    """The numbers in each row by column name, without nulls."""
    numeric = table.select_dtypes("number")
    names = [str(name) for name in numeric.columns]
    return [
        {
            name: int(value) if value.is_integer() else round(value, 6)
            for name, value in zip(names, row, strict=True)
            if math.isfinite(value)
        }
        for row in numeric.to_numpy(dtype=float, na_value=np.nan).tolist()
    ]


def _feature(
    slide: str,
    name: str,
    parts: list[Rings],
    label: str,
    colour: Rgb,
    kind: dict[str, Any],
    measurements: Mapping[str, float],
) -> Feature:
    shape, coordinates = ("Polygon", parts[0]) if len(parts) == 1 else ("MultiPolygon", parts)
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_IDS, f"{slide}/{name}")),
        "geometry": {"type": shape, "coordinates": coordinates},
        "properties": {
            **kind,
            "name": name,
            "classification": {"name": label, "color": list(colour)},
            "measurements": dict(measurements),
        },
    }


def _outlines(labels: TiledArray) -> Iterator[tuple[int, list[Rings]]]:
    """Yields each object's number and polygons, one block after another, sorted by number in each row of blocks."""
    boxes = _boxes(labels)
    present = np.flatnonzero(boxes[:, 2])
    for band in np.unique(boxes[present, 0] // _BLOCK_PX):
        of_band = present[boxes[present, 0] // _BLOCK_PX == band]
        found: dict[int, list[Rings]] = {}
        for column in np.unique(boxes[of_band, 1] // _BLOCK_PX):
            chosen = of_band[boxes[of_band, 1] // _BLOCK_PX == column]
            window = Box(*boxes[chosen, :2].min(axis=0).tolist(), *boxes[chosen, 2:].max(axis=0).tolist())
            known = np.zeros(len(boxes), dtype=bool)
            known[chosen] = True
            here = labels.read(window)
            for polygon in trace_polygons(np.where(known[here], here, 0)):
                rings = [np.add(ring, (window.left_px, window.top_px)).tolist() for ring in polygon.rings]
                found.setdefault(polygon.label, []).append(rings)
        yield from sorted(found.items())


def _boxes(labels: TiledArray) -> npt.NDArray[np.int64]:
    """(N + 1, 4) int64: top, left, bottom and right of each number from 0 on; bottom is 0 for unused numbers."""
    boxes = np.zeros((0, 4), dtype=np.int64)
    labels.pack()
    for place in labels.places():
        box = labels.box(place)
        tile = labels.read(box)
        rows, columns = np.nonzero(tile)
        numbers, at = np.unique(tile[rows, columns], return_inverse=True)
        if numbers[-1] >= len(boxes):
            more = np.zeros((max(int(numbers[-1]) + 1, 2 * len(boxes)) - len(boxes), 4), dtype=np.int64)
            more[:, :2] = 2**40
            boxes = np.concatenate([boxes, more])
        found = np.full((numbers.size, 4), 2**40)
        np.minimum.at(found[:, 0], at, rows)
        np.minimum.at(found[:, 1], at, columns)
        np.minimum.at(found[:, 2], at, -rows - 1)
        np.minimum.at(found[:, 3], at, -columns - 1)
        first = np.array([box.top_px, box.left_px])
        boxes[numbers, :2] = np.minimum(boxes[numbers, :2], found[:, :2] + first)
        boxes[numbers, 2:] = np.maximum(boxes[numbers, 2:], first - found[:, 2:])
    return boxes
