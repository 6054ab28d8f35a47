"""Outlines of tissue, as QuPath exports them and as `tissue.geojson` has them, drawn as a mask of classes."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, ClassMap
from dermatome.errors import BadAnnotation, MissingInput
from dermatome.geometry import Box, Size
from dermatome.labels.annotation_files import class_name, in_words
from dermatome.labels.drawn_maps import AMBIGUOUS, MAX_TIMES_COVERED
from dermatome.labels.imagescope import MAX_BYTES, MAX_COORDINATE
from dermatome.labels.palette import IGNORED_LABEL, Palette

_log = logging.getLogger(__name__)
_Ring = npt.NDArray[np.float64]


def draw_tissue(path: Path, size: Size, palette: Palette | None = None, elsewhere: int = IGNORED) -> ClassMap:
    """Draws a GeoJSON file of tissue: a pixel is in a polygon where its middle is, holes are left out.

    Polygons lie on one another in the order of the file, the last on top. Outlines without a class, or with one that
    QuPath ignores (``…*``), are left out and counted; those of the class Ignore* or Ambiguous are ignored.

    Args:
        path: the file; its coordinates are in pixels of the image.
        size: of the image.
        palette: further names of the classes.
        elsewhere: class of what no polygon covers.

    Returns:
        (H, W) uint8 of :class:`TissueClass`, and :data:`IGNORED`.

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it is no GeoJSON, names a class that neither the palette nor Dermatome has, or has no polygon
            with a class.
    """
    palette, left_out = palette or Palette(), Counter[str]()
    mask: ClassMap = np.full((size.height_px, size.width_px), elsewhere, np.uint8)
    covered_px = drawn = 0
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadAnnotation(f"{path} is larger than {MAX_BYTES >> 20} MB: export fewer outlines to a file.")
        content = json.loads(path.read_bytes())
        for feature in content if isinstance(content, list) else content.get("features", [content]):
            name = class_name((feature.get("properties") or {}).get("classification"))
            polygons = _polygons(feature["geometry"])
            if not name or name.endswith("*") or not polygons:
                left_out["no class" if polygons and not name else f"class {name}" if polygons else "no polygon"] += 1
                continue
            number = palette.class_named(IGNORED_LABEL if name == AMBIGUOUS else name)
            if number is None:
                raise BadAnnotation(
                    f"{path} has outlines of the class {name[:40]!r}: use background, dermis, epidermis, keratin or "
                    "ignored, or list the name in palette.json."
                )
            drawn += 1
            for rings in polygons:
                box = _within(rings[0], size)
                covered_px += box.size.area_px
                if covered_px > MAX_TIMES_COVERED * size.area_px:
                    raise BadAnnotation(
                        f"{path} has outlines that cover their image more than {MAX_TIMES_COVERED} times over: delete "
                        "those that lie on one another."
                    )
                mask[box.slices][_inside(rings, box)] = number
    except FileNotFoundError as error:
        raise MissingInput(f"There is no annotation {path}: put it beside its image.") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise BadAnnotation(f"{path} is no GeoJSON of polygons ({error!r}): export it from QuPath again.") from error
    if left_out:
        _log.warning("%s: left out, as they are no outlines of tissue: %s.", path, in_words(left_out))
    if not drawn:
        raise BadAnnotation(f"{path} has no polygon with a class: give each outline in QuPath its class.")
    return mask


def _polygons(geometry: Any) -> list[list[_Ring]]:
    """The rings of each polygon of a geometry, the outer one first; (N, 2) x and y each."""
    if geometry is not None and geometry["type"] == "GeometryCollection":
        return [rings for one in geometry["geometries"] for rings in _polygons(one)]
    if geometry is None or geometry["type"] not in ("Polygon", "MultiPolygon"):
        return []
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    polygons = [[np.array([[float(x), float(y)] for x, y, *_ in ring]) for ring in part] for part in parts if part]
    if not all(len(ring) > 2 and (np.abs(ring) <= MAX_COORDINATE).all() for rings in polygons for ring in rings):
        raise ValueError("a ring of fewer than three points, or a coordinate that is no place on an image")
    return polygons


def _within(ring: _Ring, size: Size) -> Box:
    """The part of the image that a ring's box covers; it may be empty."""
    limit = (size.width_px, size.height_px)
    (left, top), (right, bottom) = (
        np.clip(edge, 0, limit).astype(int).tolist() for edge in (np.floor(ring.min(0)), np.ceil(ring.max(0)))
    )
    return Box(top, left, bottom, right)


def _inside(rings: list[_Ring], box: Box) -> npt.NDArray[np.bool_]:
    """Which pixels of a box have their middle within a polygon and in none of its holes."""
    from dermatome.labels.fill import pixels_in_outline

    start = rings[0][:1]
    # One line runs to each hole, around it and back: crossed twice, the way there does not count.
    line = np.concatenate([part for ring in rings for part in (ring, ring[:1], start)])
    # Whole numbers are the middles of pixels there, and their corners in an outline.
    corners = line - (box.left_px + 0.5, box.top_px + 0.5)
    return pixels_in_outline(corners, box.size.height_px, box.size.width_px)
