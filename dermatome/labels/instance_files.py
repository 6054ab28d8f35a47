"""Instance maps and outlines of cells and nuclei as files other programs open, written and read part by part."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.classes import Rgb
from dermatome.errors import BadAnnotation
from dermatome.geometry import Box, Size
from dermatome.labels.bands import Nameless, ome_options
from dermatome.labels.label_map import TILE_PX, LabelMap
from dermatome.labels.mask_files import feature
from dermatome.labels.npz import array_member, load_arrays
from dermatome.storage.files import atomic_file

if TYPE_CHECKING:
    import pandas as pd

Instances = npt.NDArray[np.int32]

_CELL_COLOUR: Rgb = (0, 158, 115)
_BLOCK_PX = 2048


def save_instances(path: Path, instances: LabelMap | Instances) -> Path:
    """Writes an instance map as ``.npz``: ``instances`` (H, W) int32, 0 background; row by row of its tiles.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    labels = _as_map(instances)
    with (
        atomic_file(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        array_member(archive, "instances", labels.shape, labels.dtype) as write,
    ):
        for band in labels.bands():
            write(band)
    return path


def load_instances(path: Path, *, size: Size | None = None) -> Instances:
    """Reads what :func:`save_instances` wrote: (H, W) int32; arguments and errors as
    :func:`dermatome.labels.mask_files.load_mask`.
    """
    values = load_arrays(path, "instances", "instance map", size)["instances"]
    if values.size and not 0 <= values.min() <= values.max() <= np.iinfo(np.int32).max:
        raise BadAnnotation(f"The instance map {path} holds numbers outside 0 to 2147483647: make it again.")
    return values.astype(np.int32, copy=False)


def write_map_tiff(
    path: Path,
    labels: LabelMap,
    mpp: float,
    *,
    name: str = "",
    classes: Mapping[int, tuple[str, Rgb]] | None = None,
) -> Path:
    """Writes a map of instances, layers or classes as a tiled OME-TIFF with its scale; its tiles are only copied.

    Where the labels are classes, ``classes`` has the name and colour of each.

    Raises:
        BadSetting: an mpp that the format does not have.
        StorageFailed: the disk is full or the folder not writable.
    """
    import tifffile

    empty = zlib.compress(bytes(labels.dtype.itemsize * TILE_PX**2), 9)
    large = labels.dtype.itemsize * labels.size.area_px >= 2**31
    with atomic_file(path) as file, tifffile.TiffWriter(Nameless(file), bigtiff=large) as writer:
        writer.write(
            (labels.deflated(*place) or empty for place in labels.places()),
            shape=labels.shape,
            dtype=labels.dtype,
            **ome_options(path, labels.size, labels.dtype, mpp, classes or {}, name),
        )
    return path


def write_cells_geojson(
    path: Path,
    instances: LabelMap | Instances,
    cells: pd.DataFrame,
    *,
    slide: str,
    what: str = "cell",
    classes: Mapping[str, Rgb] | None = None,
) -> Path:
    """Writes the outlines of cells or nuclei as QuPath detections with the numbers of their row as measurements.

    Args:
        path: of the file.
        instances: (H, W) int32, 0 background.
        cells: a row for each cell, with ``cell_id`` (of nuclei ``nucleus_id``); its other numbers become measurements,
            nulls are left out.
        slide: its name; ids of the detections are made from it.
        what: ``cell`` or ``nucleus``.
        classes: where cells have classes, in the column ``class``: the colour of each.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    labels = _as_map(instances)
    measured = _Measurements(cells, f"{what}_id")
    kinds = {} if classes is None else dict(zip(cells[f"{what}_id"], cells["class"], strict=True))
    with atomic_file(path) as file:
        file.write(b'{"type":"FeatureCollection","features":[')
        between = b""
        for number, parts in _outlines(labels):
            kind = str(kinds.get(number, what))
            colour = (classes or {}).get(kind, _CELL_COLOUR)
            name, detection = f"{what} {number}", {"objectType": "detection"}
            one = feature(slide, name, parts, kind, colour, detection, measured.of(number))
            file.write(between + json.dumps(one, separators=(",", ":"), allow_nan=False).encode())
            between = b","
        file.write(b"]}")
    return path


class _Measurements:
    """The numbers of each cell's row, as they are written."""

    def __init__(self, cells: pd.DataFrame, key: str) -> None:
        numeric = cells.select_dtypes("number")
        self._names = [str(name) for name in numeric.columns]
        self._values = numeric.to_numpy(dtype=float, na_value=np.nan).tolist()
        self._row = {int(number): row for row, number in enumerate(cells[key])}

    def of(self, number: int) -> dict[str, float]:
        row = self._row.get(number)
        values = zip(self._names, self._values[row], strict=True) if row is not None else ()
        return {
            name: int(value) if value.is_integer() else round(value, 6)
            for name, value in values
            if math.isfinite(value)
        }


def _outlines(labels: LabelMap) -> Iterator[tuple[int, list[list[list[list[int]]]]]]:
    """Each cell's number and polygons, block by block; those of a row of blocks in the order of their numbers."""
    from dermatome.labels.outlines import trace_polygons

    boxes = _boxes(labels)
    present = np.flatnonzero(boxes[:, 2])
    for band in np.unique(boxes[present, 0] // _BLOCK_PX):
        of_band = present[boxes[present, 0] // _BLOCK_PX == band]
        found: dict[int, list[list[list[list[int]]]]] = {}
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


def _boxes(labels: LabelMap) -> npt.NDArray[np.int64]:
    """(N + 1, 4) int64: top, left, bottom and right of each number from 0; a bottom of 0 where there is none."""
    boxes = np.zeros((0, 4), dtype=np.int64)
    for place in labels.places():
        if labels.deflated(*place) is None:
            continue
        box = labels.box(*place)
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


def _as_map(instances: LabelMap | Instances) -> LabelMap:
    return instances if isinstance(instances, LabelMap) else LabelMap.of(instances)
