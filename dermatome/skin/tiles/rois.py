"""Regions of interest (ROIs): the saved rectangles of an annotated slide.

Our own ROI file is JSON, in pixels of the image::

    {"rois": [{"name": "r1", "top": 512, "left": 1024, "height": 1024, "width": 1024, "divide": 2}]}

``divide`` n (optional, default 1) cuts the ROI into n×n equal parts; ``name`` is optional. QuPath's GeoJSON with
upright rectangles is read as well. Each side of a part must have at least :data:`MIN_TILE_PX`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box

MIN_TILE_PX = 16
"""Smallest side of a part of a divided ROI, px: smaller tiles show no tissue structure."""


@dataclass(frozen=True)
class Roi:
    """A named rectangle of an image, cut into ``divide`` × ``divide`` parts."""

    name: str
    box: Box
    divide: int = 1

    @property
    def divisible(self) -> bool:
        """Whether its parts are large enough to be tiles; an ROI that is not divided always is."""
        size = self.box.size
        return self.divide == 1 or min(size.height_px, size.width_px) // self.divide >= MIN_TILE_PX


def read_rois(path: Path) -> list[Roi]:
    """Reads our ROI file or QuPath's GeoJSON (see this module's docstring).

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it is neither, an ROI is not an upright rectangle, or two have the same name.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise MissingInput(f"There is no ROI file {path}: save the regions of the slide first.") from error
    except (ValueError, RecursionError) as error:
        raise BadAnnotation(f"The ROI file {path} is not JSON ({error}): save it again.") from error
    return rois_of(content, path)


def rois_of(content: Any, path: Path) -> list[Roi]:
    """The ROIs in the parsed JSON of a ROI file; ``path`` is used in error messages.

    Raises:
        BadAnnotation: see :func:`read_rois`.
    """
    if isinstance(content, dict) and isinstance(content.get("rois"), list):
        rois = [_own_roi(entry, index, path) for index, entry in enumerate(content["rois"], 1)]
    elif isinstance(content, list) or (isinstance(content, dict) and content.get("type") in _GEOJSON):
        features = content if isinstance(content, list) else content.get("features", [content])
        if not isinstance(features, list):
            raise BadAnnotation(f'The ROI file {path} has no list of "features": export it from QuPath again.')
        rois = [_qupath_roi(feature, index, path) for index, feature in enumerate(features, 1)]
    else:
        raise BadAnnotation(
            f'The ROI file {path} has neither "rois" nor GeoJSON features: see the format of ROI files.'
        )
    seen: set[str] = set()
    for roi in rois:
        if roi.name in seen:
            raise BadAnnotation(f"The ROI file {path} has two ROIs named {roi.name!r}: give each its own name.")
        seen.add(roi.name)
    return rois


def rois_json(rois: Iterable[Roi]) -> bytes:
    """Our own ROI file, which :func:`read_rois` reads."""
    entries = []
    for roi in rois:
        place = {"top": roi.box.top_px, "left": roi.box.left_px}
        size = {"height": roi.box.size.height_px, "width": roi.box.size.width_px}
        entries.append({"name": roi.name, **place, **size, "divide": roi.divide})
    return json.dumps({"rois": entries}, indent=1).encode() + b"\n"


def _own_roi(entry: Any, index: int, path: Path) -> Roi:
    try:
        top, left, height, width = (entry[key] for key in ("top", "left", "height", "width"))
        divide = entry.get("divide", 1)
        if not all(type(value) is int for value in (top, left, height, width, divide)) or divide < 1:
            raise TypeError
        return Roi(str(entry.get("name", f"roi{index}")), Box(top, left, top + height, left + width), divide)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadAnnotation(
            f"ROI {index} of {path} is not usable: give top, left, height, width (and divide) as whole px."
        ) from error


_GEOJSON = ("FeatureCollection", "Feature")


def _qupath_roi(feature: Any, index: int, path: Path) -> Roi:
    try:
        properties = feature.get("properties") or {}
        name = str(properties.get("name") or f"roi{index}")
        geometry = feature["geometry"]
        ring = [(float(x), float(y)) for x, y in geometry["coordinates"][0]]
        columns, rows = sorted({x for x, _ in ring}), sorted({y for _, y in ring})
        # Counted before combining: a freehand outline would have the product of its rows and columns as corners.
        upright = len(columns) == len(rows) == 2 and set(ring) == {(x, y) for x in columns for y in rows}
        if geometry["type"] != "Polygon" or not upright or not all(map(math.isfinite, (*columns, *rows))):
            raise ValueError("not an upright rectangle")
        metadata = properties.get("metadata") or {}
        divide = int(properties.get("divide", metadata.get("divide", 1)))
        if divide < 1 or len(geometry["coordinates"]) != 1:
            raise ValueError("divided by less than one, or with a hole")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise BadAnnotation(
            f"ROI {index} of {path} is not an upright rectangle: draw it with QuPath's rectangle tool."
        ) from error
    return Roi(name, Box(round(rows[0]), round(columns[0]), round(rows[1]), round(columns[1])), divide)
