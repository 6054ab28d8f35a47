"""Traces a number in a table to its pixels: the value is recomputed from the stored image, mask and cells alone.

It is measured by the stages' own functions, and by no other code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import BoolMap
from dermatome.errors import BadSetting, MissingInput
from dermatome.geometry import Box
from dermatome.imaging.background import Background
from dermatome.imaging.ihc_stains import StainVectors, slide_stains
from dermatome.imaging.overlay import draw_borders, enlarge, fitting, sample_labels
from dermatome.labels.object_table import ObjectSums
from dermatome.labels.tiled import TILE_PX, TiledArray
from dermatome.pipeline.stage_files import load_slide, read_rows, synthetic_warning
from dermatome.skin.cells.segment import CELL_COLUMNS, add_cell_pixels, cell_table
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.layers.measure import RELATIVE_BINS, EpidermalZone, LayersResult, measure_layers
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.stage_files import CELLS_TABLE, LAYERS_TABLE, SkinInput, load_skin, require_current
from dermatome.storage.layout import RECORD_FILE
from dermatome.storage.record import StageRecord, library_versions, require_record

if TYPE_CHECKING:
    from dermatome.classes import RgbImage
    from dermatome.storage.layout import DataRoot
    from dermatome.storage.record import Scalar

Part = Literal["epidermis", "layer", "zone", "relative_depth", "cell"]

TABLES: dict[Part, str] = {
    "layer": LAYERS_TABLE,
    "zone": "zones.parquet",
    "relative_depth": "relative.parquet",
    "cell": "cell_layers.parquet",
}
"""Files of `epidermis_layers` with a row for each part of the epidermis of this kind."""
_MARGIN_UM = 20.0
_SIDE_PX = 1200
_DATA = (".npz", ".parquet", ".tif", ".geojson")


@dataclass(frozen=True)
class Explanation:
    """A value of a table, its recomputation, and everything that it was computed from.

    Attributes:
        of: what the value describes, as text.
        column: name of its column.
        stored: the value in the data root.
        recomputed: the value from the stored image, mask and cells, by the present code with the recorded settings.
        counted: (H, W) bool, the pixels that are counted.
        counted_px: number of these pixels.
        box: smallest box around them; None if there are none.
        made_from: what it was computed from, as plain values: ``file`` of the value, ``pixels``, ``image``, ``i0``,
            then for ``mask``, ``cells`` and ``layers`` their file with its sha256, weights, settings and code.
    """

    of: str
    column: str
    stored: Scalar
    recomputed: Scalar
    counted: TiledArray
    counted_px: int
    box: Box | None
    made_from: dict[str, Any]

    @property
    def equal(self) -> bool:
        """Whether the two values are equal to the last bit, without rounding."""
        return self.stored == self.recomputed


def explain_value(
    root: DataRoot, name: str, column: str, part: Part = "epidermis", row: int | str | float | None = None
) -> Explanation:
    """Recomputes a value of a slide from the slide's files.

    The columns are those of the part's table. For ``epidermis``, which is all of it, they are those of
    :attr:`LayersResult.values`; for a cell, those of `cells.parquet` and `cell_layers.parquet`. ``row`` is the number
    of the layer or cell, the name of the zone, or a relative depth (0–1), whose bin is used.

    Raises:
        MissingInput: the slide has no such result or row, or the result was computed from earlier inputs.
        BadSetting: there is no such column or zone.
        StorageFailed: a file is not the one that was written.
    """
    own_cells = part == "cell" and column in CELL_COLUMNS
    asset = "cell_masks" if own_cells else "epidermis_layers"
    upstream = ["slide_images", "epidermis_masks", *([] if own_cells else ["cell_masks"])]
    file = CELLS_TABLE if own_cells else TABLES.get(part, RECORD_FILE)
    record = require_current(root, asset, name, upstream, file)
    skin = load_skin(root, name)
    slide = skin.slide
    number, stored = _number(part, row), record.values
    at = number - 1
    if part != "epidermis":
        table = skin.cells if own_cells else read_rows(root.folder(asset, name) / file)
        if part == "cell":
            at = int(np.flatnonzero(np.append(table["cell_id"], number) == number)[0])
        if not 0 <= at < len(table):
            raise MissingInput(f"{name} has no {_said(part, row)}: {file} has {len(table)} rows.")
        stored = _row(table, at)
    if own_cells:
        background, vectors = slide_stains(slide, CellSettings.model_validate(record.settings["cells"]).stain_vectors)
        counted, again = _measure_cell(skin, number, background, vectors)
    else:
        settings = LayerSettings.model_validate(record.settings["layers"])
        counted, result = _measure_layers(skin, settings, part, number)
        background, again = result.background, _measured(result, part, at)
    if again and column not in again:
        raise BadSetting(f"There is no column {column!r} of {_said(part, row)}: use one of {', '.join(again)}.")
    counted_px, box = _extent(counted)
    pixels = {"counted_px": counted_px, "counted_um2": counted_px * slide.mpp**2, "box_px": box and vars(box)}
    where = {"file": f"{asset}/{name}/{file}", "pixels": pixels}
    return Explanation(
        of=_said(part, row),
        column=column,
        stored=stored.get(column),
        recomputed=again.get(column),
        counted=counted,
        counted_px=counted_px,
        box=box,
        made_from=where | _made_from(root, skin, background, record),
    )


def pixels_picture(root: DataRoot, name: str, found: Explanation) -> RgbImage:
    """The image around the counted pixels with their outline, (h, w, 3) uint8, at most 1200 px per side.

    Raises:
        MissingInput: no pixel is counted.
    """
    if found.box is None:
        raise MissingInput(f"No pixel of {name} is counted for {found.column} of {found.of}, so there is no picture.")
    slide = load_slide(root, name)
    crop = found.box.expanded(round(_MARGIN_UM / slide.mpp), slide.size)
    counted = sample_labels(found.counted, crop, _SIDE_PX).astype(np.uint8)
    pixels, counted = enlarge(slide.region(crop, fitting(crop.size, _SIDE_PX)), counted, _SIDE_PX)
    return draw_borders(pixels, counted, width_px=2)


def _measure_cell(
    skin: SkinInput, number: int, background: Background, vectors: StainVectors
) -> tuple[TiledArray, dict[str, Scalar]]:
    """The pixels of a cell and its row, as `cell_masks` measures them."""
    slide, counted = skin.slide, TiledArray(skin.slide.size, np.bool_)
    places = []
    for top in range(0, slide.size.height_px, TILE_PX):
        band = Box(top, 0, min(top + TILE_PX, slide.size.height_px), slide.size.width_px)
        of_cell = skin.instances[band.slices] == number
        counted.write(band, of_cell)
        places.append(np.argwhere(of_cell) + np.array([top, 0]))
    rows, columns = np.concatenate(places).T
    if not rows.size:
        return counted, {}
    sums, box = ObjectSums(), Box.holding(rows, columns)
    rgb = slide.pixels[box.slices][rows - box.top_px, columns - box.left_px]
    add_cell_pixels(sums, np.full(rows.size, number), rows, columns, rgb, background, vectors)
    return counted, _row(cell_table(np.array([number]), sums, slide.mpp, background), 0)


def _measure_layers(
    skin: SkinInput, settings: LayerSettings, part: Part, number: int
) -> tuple[TiledArray, LayersResult]:
    """The pixels that count for a row, and everything that `epidermis_layers` measures."""
    counted = TiledArray(skin.slide.size, np.bool_)

    def note(box: Box, inside: BoolMap, groups: Mapping[str, npt.NDArray[Any]]) -> None:
        pixels = inside.copy()
        if part != "epidermis":
            pixels[inside] = groups[part] == number
        counted.write(box, pixels)

    return counted, measure_layers(skin.slide, skin.mask, skin.instances, skin.cells, settings, on_pixels=note)


def _measured(result: LayersResult, part: Part, at: int) -> dict[str, Scalar]:
    """A row of a recomputed table of the layers; empty if the table has no such row."""
    tables = {"layer": result.layers, "zone": result.zones, "relative_depth": result.relative}
    table = tables.get(part, result.cell_layers)
    return result.values if part == "epidermis" else _row(table, at) if at < len(table) else {}


def _row(table: pd.DataFrame, at: int) -> dict[str, Scalar]:
    """A row as plain values; nulls and NaN become None."""
    values = {str(name): table[name].iloc[at] for name in table.columns}
    return {
        name: None if pd.isna(value) else value.item() if hasattr(value, "item") else value
        for name, value in values.items()
    }


def _number(part: Part, row: int | str | float | None) -> int:
    """The number of the row whose pixels are counted; 1 for the first row."""
    if part == "zone":
        zones = [zone.value for zone in EpidermalZone]
        if row not in zones:
            raise BadSetting(f"There is no zone {row!r}: use one of {', '.join(zones)}.")
        return zones.index(str(row)) + 1
    if part == "relative_depth":
        return min(int(float(row or 0.0) * RELATIVE_BINS), RELATIVE_BINS - 1) + 1
    return 1 if row is None else int(row)


def _said(part: Part, row: int | str | float | None) -> str:
    return part.replace("_", " ") if row is None else f"{part.replace('_', ' ')} {row}"


def _extent(counted: TiledArray) -> tuple[int, Box | None]:
    """Number of True pixels, and the smallest box around them."""
    count, boxes = 0, []
    for place in counted.places():
        box = counted.box(place)
        pixels = counted.read(box)
        if inside := Box.around(pixels):
            count += int(np.count_nonzero(pixels))
            boxes.append(inside.moved(box.top_px, box.left_px))
    return count, Box.covering(boxes) if boxes else None


def _made_from(root: DataRoot, skin: SkinInput, background: Background, value: StageRecord) -> dict[str, Any]:
    """What a value was computed from, as stated in the records."""
    image = require_record(root, "slide_images", skin.slide.name)
    shown = ("location", "file", "image_sha256", "height_px", "width_px", "mpp", "mpp_source", "gene", "ensembl_id")
    records = {"mask": skin.mask_record, "cells": skin.cells_record}
    records |= {"layers": value} if value.asset == "epidermis_layers" else {}
    return {
        "image": {field: image.values[field] for field in shown if image.values.get(field) is not None},
        "i0": background.values,
        **{what: _result(record) for what, record in records.items()},
        "recomputed_by": library_versions()["dermatome"],
        "warning": synthetic_warning(value.values),
    }


def _result(record: StageRecord) -> dict[str, Any]:
    weights = ("weights", "weights_sha256")
    return {
        "asset": record.asset,
        "data_version": record.data_version,
        "files": {file: facts.sha256 for file, facts in record.files.items() if file.endswith(_DATA)},
        **{field: record.values[field] for field in weights if field in record.values},
        "settings": record.settings,
        "code_version": record.code_version,
        "dermatome": record.libraries.get("dermatome"),
        "run_id": record.run_id,
        "made_at": record.made_at.isoformat(),
    }
