"""Draws outlines of tissue, from QuPath's exports or `tissue.geojson`, as a mask of classes."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np

from dermatome.classes import IGNORED, ClassMap
from dermatome.errors import BadAnnotation
from dermatome.geometry import Size
from dermatome.labels.annotation_files import class_name, features_in, in_words, json_outlines, polygons, ring
from dermatome.labels.drawn_maps import AMBIGUOUS, MAX_TIMES_COVERED
from dermatome.labels.fill import check_crossed_rows, crossed_rows, outline_box, pixels_in_outlines
from dermatome.labels.imagescope import MAX_COORDINATE
from dermatome.labels.palette import IGNORED_LABEL, Palette

_log = logging.getLogger(__name__)


def draw_tissue(path: Path, size: Size, palette: Palette | None = None, elsewhere: int = IGNORED) -> ClassMap:
    """Draws a GeoJSON file of tissue; a polygon contains the pixels whose centres lie in it and not in its holes.

    Later polygons in the file lie on top of earlier ones. Outlines without a class, or with a class that QuPath ignores
    (``…*``), are left out and counted; pixels of the classes Ignore* and Ambiguous are ignored.

    Args:
        path: the file; its coordinates are in pixels of the image.
        size: size of the image.
        palette: further names of the classes.
        elsewhere: class of pixels outside of all polygons.

    Returns:
        (H, W) uint8 of :class:`TissueClass`, and :data:`IGNORED`.

    Raises:
        MissingInput: there is no such file.
        BadAnnotation: it is no GeoJSON, names a class that neither the palette nor Dermatome has, has no polygon with
            a class, or has outlines that would take too long to draw.
    """
    palette, left_out = palette or Palette(), Counter[str]()
    mask: ClassMap = np.full((size.height_px, size.width_px), elsewhere, np.uint8)
    covered_px = crossed = drawn = 0
    with json_outlines(path, "GeoJSON of polygons", "QuPath") as content:
        for feature in features_in(content):
            name = class_name((feature.get("properties") or {}).get("classification"))
            drawable = [[ring(points) for points in part] for part in polygons(feature.get("geometry"))]
            if not all(len(one) > 2 and (np.abs(one) <= MAX_COORDINATE).all() for rings in drawable for one in rings):
                raise ValueError("a ring has fewer than three points, or a coordinate cannot lie on an image")
            if not name or name.endswith("*") or not drawable:
                left_out["no class" if drawable and not name else f"class {name}" if drawable else "no polygon"] += 1
                continue
            number = palette.class_named(IGNORED_LABEL if name == AMBIGUOUS else name)
            if number is None:
                raise BadAnnotation(
                    f"{path} has outlines of the class {name[:40]!r}: use background, dermis, epidermis, keratin or "
                    "ignored, or list the name in palette.json."
                )
            drawn += 1
            for rings in drawable:
                box = outline_box(rings[0], size)
                covered_px += box.size.area_px
                if covered_px > MAX_TIMES_COVERED * size.area_px:
                    raise BadAnnotation(
                        f"{path} has outlines that cover their image more than {MAX_TIMES_COVERED} times: delete "
                        "overlapping ones."
                    )
                crossed += sum(crossed_rows(one, box) for one in rings)
                check_crossed_rows(crossed, path)
                mask[box.slices][pixels_in_outlines(rings, box)] = number
    if left_out:
        _log.warning("%s: left out, as they are not outlines of tissue: %s.", path, in_words(left_out))
    if not drawn:
        raise BadAnnotation(f"{path} has no polygon with a class: give each outline in QuPath its class.")
    return mask
