"""The stage `epidermis_layers`: the epidermal layers of a slide and the stains in them, file to file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dermatome.classes import LabelArray, Rgb
from dermatome.labels.geojson import object_features, region_features, write_geojson
from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.labels.tiled import TiledArray
from dermatome.pipeline.cached_stage import Stage
from dermatome.pipeline.stage_files import load_slide, synthetic_warning, timed, versions_of, write_figure, write_rows
from dermatome.skin.layers.figures import layer_colours, layers_figure
from dermatome.skin.layers.measure import LayerOutcome, LayersResult, measure_layers
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.stage_files import load_cell_map, load_tissue_mask
from dermatome.slides.slide import Slide
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageRecord, StageResult, content_version

if TYPE_CHECKING:
    import pandas as pd

CELL_CLASSES: dict[str, Rgb] = {"basal": (0, 114, 178), "suprabasal": (230, 159, 0), "no layer": (153, 153, 153)}
"""Class of a cell by its layer: 1, above, none; and its colour."""


def layers_rows(record: StageRecord, path: Path) -> pd.DataFrame:
    """The layers of a slide for a table of several slides, with outcome, pattern and background.

    Args:
        record: record of :func:`write_layers`.
        path: its table of layers; without rows, the slide has one row whose layer is null.
    """
    import pandas as pd

    table = pd.read_parquet(path)
    if table.empty:
        table = table.reindex([0]).assign(slide=record.partition)
    values = {name: value for name, value in record.values.items() if name == "pattern" or name.startswith("i0_")}
    table = table.assign(outcome=record.outcome, **values)
    whole = dict.fromkeys(("layer", "area_px", "cells"), "Int64")
    return table.astype(whole | dict.fromkeys(("slide", "outcome", "pattern", "i0_source"), "string"))


def layer_classes(count: int) -> dict[int, tuple[str, Rgb]]:
    """Name and colour of each of so many layers, by number."""
    colours = layer_colours(count)
    return {
        number: (f"layer {number}{' (basal)' if number == 1 else ''}", colours[number])
        for number in range(1, len(colours))
    }


def place_cells(cells: pd.DataFrame, cell_layers: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells with layer, distance and depth, and ``class``, one of :data:`CELL_CLASSES`."""
    placed = cells.merge(cell_layers, on="cell_id", how="left")
    placed["class"] = np.select([placed["layer"] == 1, placed["layer"] > 1], ["basal", "suprabasal"], "no layer")
    return placed


@dataclass(frozen=True)
class _Input:
    slide: Slide
    mask: LabelArray
    instances: LabelArray
    cells: pd.DataFrame
    warning: str
    seconds: dict[str, float]


@dataclass
class LayersStage(Stage[_Input, tuple[_Input, LayersResult]]):
    """Computes the tables, `layers.ome.tif`, `layers.geojson`, `cells.geojson` and the figure of each slide.

    The tables are `layers.parquet`, `cell_layers.parquet`, `profile.parquet`, `relative.parquet` and `zones.parquet`.
    """

    root: DataRoot
    layers: LayerSettings
    asset = "epidermis_layers"

    def inputs(self, key: str) -> dict[str, str]:
        """The image, the mask and the cells."""
        return versions_of(self.root, key, "slide_images", "epidermis_masks", "cell_masks")

    def load(self, key: str) -> _Input:
        """Decodes the image and the results of earlier stages, or opens them if they are large."""
        seconds: dict[str, float] = {}
        with timed(seconds, "decode"):
            slide = load_slide(self.root, key)
            mask, _ = load_tissue_mask(self.root, key, slide.size)
            # Its record says it of the mask's network, too.
            instances, cells, made = load_cell_map(self.root, key, slide.size)
        return _Input(slide, mask, instances, cells, synthetic_warning(made.values), seconds)

    def pixels(self, loaded: _Input) -> int:
        """Size of the image, px."""
        return loaded.slide.size.area_px

    def compute(self, loaded: Sequence[_Input]) -> list[tuple[_Input, LayersResult]]:
        """Cuts and measures the layers."""
        found = []
        for one in loaded:
            with timed(one.seconds, "measure"):
                result = measure_layers(
                    one.slide, one.mask, one.instances, one.cells, self.layers, self.check
                )  # fmt: skip
            found.append((one, result))
        return found

    def save(self, key: str, found: tuple[_Input, LayersResult], folder: Path) -> StageResult:
        """Writes tables, map, outlines and figure."""
        one, result = found
        return write_layers(folder, one.slide, one.instances, one.cells, result, dict(one.seconds), one.warning)


def write_layers(
    folder: Path,
    slide: Slide,
    instances: LabelArray,
    cells: pd.DataFrame,
    result: LayersResult,
    seconds: dict[str, float],
    warning: str,
    stem: str = "",
) -> StageResult:
    """Writes the layers of a slide: tables, map, outlines of layers and of cells with their layer, and figure.

    Args:
        folder: folder of the files.
        slide: the image.
        instances: (H, W) int32, its cells.
        cells: a row for each cell.
        result: its layers.
        seconds: wall time of earlier phases, to which those of writing are added.
        warning: what every file says of the networks, or empty.
        stem: start of the names of the files; without it, they are named as in the data root.
    """
    name, before = stem or "layers", f"{stem}_" if stem else ""
    layers, placed = layer_classes(len(result.layers)), place_cells(cells, result.cell_layers)
    with timed(seconds, "write"):
        write_rows(folder / f"{name}.parquet", slide.name, result.layers, warning=warning)
        for kind in ("cell_layers", "profile", "relative", "zones"):
            write_rows(folder / f"{before}{kind}.parquet", slide.name, getattr(result, kind), warning=warning)
        write_ome_tiff(folder / f"{name}.ome.tif", result.layer_map, slide.mpp, name=slide.name, warning=warning)
        outlines = region_features(result.layer_map, layers, result.layers, slide=slide.name)
        write_geojson(folder / f"{name}.geojson", outlines, warning=warning)
        tiled = TiledArray.of(instances, np.int32)
        outlines = object_features(tiled, placed, slide=slide.name, classes=CELL_CLASSES)
        write_geojson(folder / f"{before}cells.geojson", outlines, warning=warning)
    with timed(seconds, "figure"):
        write_figure(folder, layers_figure(slide, result), stem)
    return StageResult(
        outcome=result.outcome.value,
        message="" if result.outcome is LayerOutcome.MEASURED else result.message,
        data_version=content_version([*result.layer_map.content(), result.layers.to_csv().encode()]),
        values={
            "synthetic": bool(warning),
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            **result.values,
        },
        seconds=seconds,
        checks=(
            result.background.check(),
            result.background.clipped_check(),
            result.background.stains_check(),
            result.vectors.check(),
        ),
    )
