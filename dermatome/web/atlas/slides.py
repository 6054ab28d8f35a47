"""The data of the slide viewer: tiles of the image and of the results on it, and the results at a point.

A view is an image pyramid of :data:`TILE_PX` tiles as in Deep Zoom: level ``L`` of ``n`` is the slide divided by
``2 ** (n - L)``. Tiles are drawn from the stages' files on request.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import LabelArray, Rgb, TissueClass
from dermatome.errors import MissingInput
from dermatome.geometry import Box, Size
from dermatome.imaging.background import Background, slide_background
from dermatome.imaging.overlay import OUTLINE, TISSUE_COLOURS, borders, sample_labels
from dermatome.labels.ome_tiff import open_ome_tiff
from dermatome.pipeline.stage_files import load_slide
from dermatome.skin.atlas.figures import COLOURS
from dermatome.skin.layers.figures import layer_colours
from dermatome.skin.stage_files import CELLS_TABLE, CELLS_TIFF, LAYERS_TABLE, MASK_TIFF
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageRecord, content_version, read_record, require_record
from dermatome.warehouse.dictionary import column_meaning
from dermatome.web.atlas.places import SLIDE_ASSETS, explain_place

if TYPE_CHECKING:
    from dermatome.slides.slide import Slide

TILE_PX = 512
VIEWS = ("image", "dab", "tissue", "layers", "cells")
LABELS = {
    "tissue": ("epidermis_masks", MASK_TIFF),
    "cells": ("cell_masks", CELLS_TIFF),
    "layers": ("epidermis_layers", "layers.ome.tif"),
}
"""Asset and file of the labels that each view is drawn from."""
MOST_DAB_OD = 1.0
_OPEN_SLIDES = 3
_DECODING = threading.Lock()


@dataclass(frozen=True, eq=False)
class ShownSlide:
    """A slide of the data root with its results.

    Attributes:
        name: slide id.
        root: data root.
        records: record of each of :data:`SLIDE_ASSETS` that has a result.
        version: changes whenever one of these results changes.
    """

    name: str
    root: DataRoot
    records: dict[str, StageRecord]
    version: str

    @property
    def size(self) -> Size:
        """Height and width of the slide, px."""
        return Size(self.value("slide_images", "height_px"), self.value("slide_images", "width_px"))

    @property
    def levels(self) -> int:
        """Number of the finest level; level 0 is one pixel."""
        return (max(self.size.height_px, self.size.width_px) - 1).bit_length()

    @property
    def views(self) -> list[str]:
        """The views for which there is a result."""
        return [view for view in VIEWS if LABELS.get(view, ("slide_images",))[0] in self.records]

    @cached_property
    def slide(self) -> Slide:
        """The image; only one is decoded at a time, to limit memory."""
        with _DECODING:
            return self.__dict__.get("slide") or load_slide(self.root, self.name)

    @cached_property
    def background(self) -> Background:
        """The background, whose light optical densities are relative to."""
        return slide_background(self.slide)

    @cached_property
    def vectors(self) -> npt.NDArray[np.float64]:
        """(3, 3) stain vectors that the layers were measured with."""
        from dermatome.imaging.ihc_stains import StainVectors

        layers = self.records.get("epidermis_layers")
        return StainVectors.matrix_of({} if layers is None else layers.values)

    @cached_property
    def _labels(self) -> dict[str, LabelArray]:
        return {}

    def labels(self, view: str) -> LabelArray:
        """The labels of a view, which are decoded in parts."""
        if view not in self._labels:
            asset, file = LABELS[view]
            self._labels[view] = open_ome_tiff(self.root.folder(asset, self.name) / file)
        return self._labels[view]

    def value(self, asset: str, name: str) -> Any:
        """A value of the record of an asset; None if it has none."""
        return self.records[asset].values.get(name) if asset in self.records else None


class OpenSlides:
    """The slides of a data root that were opened last, kept open while their results are unchanged.

    Args:
        root: data root.
    """

    def __init__(self, root: DataRoot) -> None:
        self.root = root
        self._open: OrderedDict[str, ShownSlide] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, name: str) -> ShownSlide:
        """A slide with its present results.

        Raises:
            MissingInput: the slide has no image.
            StorageFailed: the name is not valid, or a record is damaged.
        """
        records = {"slide_images": require_record(self.root, "slide_images", name)}
        for asset in SLIDE_ASSETS[1:]:
            record = read_record(self.root.record(asset, name))
            if record is not None:
                records[asset] = record
        version = content_version(f"{asset} {record.data_version}".encode() for asset, record in records.items())
        with self._lock:
            known = self._open.pop(name, None)
            if known is None or known.version != version:
                known = ShownSlide(name, self.root, records, version)
            self._open[name] = known
            while len(self._open) > _OPEN_SLIDES:
                self._open.popitem(last=False)
        return known


def tile(shown: ShownSlide, view: str, level: int, column: int, row: int) -> tuple[bytes, str]:
    """Draws a tile of a level of a view's pyramid; returns it with its media type, PNG for labels, else JPEG.

    Raises:
        MissingInput: there is no such tile or view.
        BadImage: the image is damaged.
    """
    if view not in shown.views or not 0 <= level <= shown.levels:
        raise MissingInput(f"{shown.name} has no such tile.")
    whole, shrunk = shown.size, 2 ** (shown.levels - level)
    height, width = -(-whole.height_px // shrunk), -(-whole.width_px // shrunk)
    top, left = row * TILE_PX, column * TILE_PX
    if not (0 <= top < height and 0 <= left < width):
        raise MissingInput(f"{shown.name} has no such tile.")
    bottom, right = min(top + TILE_PX, height), min(left + TILE_PX, width)
    size = Size(bottom - top, right - left)
    box = Box(top * shrunk, left * shrunk, min(bottom * shrunk, whole.height_px), min(right * shrunk, whole.width_px))
    if view in LABELS:
        return _label_tile(shown, view, box, size), "image/png"
    pixels = shown.slide.region(box, size)
    return _encoded(_dab_picture(shown, pixels) if view == "dab" else pixels, "JPEG", quality=88), "image/jpeg"


def _dab_picture(shown: ShownSlide, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Optical density of DAB from pale to brown, as in the heatmap of the atlas."""
    from matplotlib import colormaps

    from dermatome.imaging.stains import DECADIC_OD_PER_UNIT, Stain, separate_stains

    dab = separate_stains(pixels, (Stain.DAB,), shown.background.i0, shown.vectors)[..., 0] * DECADIC_OD_PER_UNIT
    coloured: npt.NDArray[np.uint8] = colormaps[COLOURS](np.clip(dab / MOST_DAB_OD, 0, 1), bytes=True)[..., :3]
    return coloured


def _label_tile(shown: ShownSlide, view: str, box: Box, size: Size) -> bytes:
    import cv2

    # A margin, so that the outline of a cell does not end at the edge of a tile.
    shrunk = box.size.width_px / size.width_px
    wide = box.expanded(round(shrunk), shown.size)
    labels = sample_labels(shown.labels(view), wide, round(max(wide.size.height_px, wide.size.width_px) / shrunk))
    places = borders(labels).astype(np.uint8) if view == "cells" else np.minimum(labels, 255).astype(np.uint8)
    top, left = (round((inner - outer) / shrunk) for inner, outer in zip(
        (box.top_px, box.left_px), (wide.top_px, wide.left_px), strict=True
    ))  # fmt: skip
    places = places[top : top + size.height_px, left : left + size.width_px]
    if places.shape != (size.height_px, size.width_px):  # rounding at the edge of the slide
        places = cv2.resize(places, (size.width_px, size.height_px), interpolation=cv2.INTER_NEAREST)
    colours = {"tissue": TISSUE_COLOURS, "cells": ((0, 0, 0), OUTLINE)}.get(view) or layer_colours(
        int(shown.value("epidermis_layers", "layers") or 0)
    )
    return _encoded(places, "PNG", colours, transparency=0)


def _encoded(pixels: npt.NDArray[np.uint8], kind: str, colours: Sequence[Rgb] | None = None, **options: int) -> bytes:
    from PIL import Image

    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if colours is not None:
        image.putpalette([part for colour in colours[:256] for part in colour])
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def point(shown: ShownSlide, y_px: int, x_px: int) -> dict[str, Any]:
    """The results at a pixel of a slide: its tissue, and the numbers of its cell and layer.

    Raises:
        MissingInput: the pixel is not on the slide.
    """
    if not (0 <= y_px < shown.size.height_px and 0 <= x_px < shown.size.width_px):
        raise MissingInput(
            f"{shown.name} has no pixel at {x_px}, {y_px}: it has {shown.size.width_px} × {shown.size.height_px} px."
        )
    at = {
        view: int(shown.labels(view)[y_px : y_px + 1, x_px : x_px + 1][0, 0]) for view in LABELS if view in shown.views
    }
    parts = []
    if cell := at.get("cells"):
        values = _row(shown, "cell", cell, "cell_masks", CELLS_TABLE)
        if "layers" in at:
            values += _row(shown, "cell", cell, "epidermis_layers", "cell_layers.parquet")
        parts.append({"title": f"Cell {cell}", "values": values})
    if layer := at.get("layers"):
        values = _row(shown, "layer", layer, "epidermis_layers", LAYERS_TABLE)
        parts.append({"title": f"Layer {layer}", "values": values})
    return {"tissue": TissueClass(at["tissue"]).label if "tissue" in at else "", "parts": parts}


def _row(shown: ShownSlide, part: str, number: int, asset: str, file: str) -> list[dict[str, Any]]:
    """Name, value, meaning and explanation address of each column of one row; empty if there is no such row."""
    import pandas as pd

    key = "layer" if part == "layer" else "cell_id"
    rows = pd.read_parquet(shown.root.folder(asset, shown.name) / file, filters=[(key, "==", number)])
    rows = rows.drop(columns=["slide", key], errors="ignore").astype(object)
    return [
        {
            "name": name,
            "value": value,
            "meaning": column_meaning(file.removesuffix(".parquet"), str(name)),
            "explain": explain_place(shown.name, part, number, str(name)),
        }
        for row in rows.where(rows.notna(), None).to_dict("records")[:1]
        for name, value in row.items()
    ]
