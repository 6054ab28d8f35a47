"""The stage `epidermis_layers`: the epidermal layers of a slide and the stains in them, from files to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dermatome.classes import LabelArray, Rgb
from dermatome.labels.geojson import object_features, region_features, write_geojson
from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.labels.tiled import TiledArray
from dermatome.pipeline.stage_files import synthetic_warning, timed, versions_of, write_figure, write_rows
from dermatome.skin.layers.figures import layer_colours, layers_figure
from dermatome.skin.layers.measure import LayerOutcome, LayersResult, measure_layers
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.stage_files import SkinInput, SkinStage
from dermatome.slides.slide import Slide
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageRecord, StageResult, content_version

CELL_CLASSES: dict[str, Rgb] = {"basal": (0, 114, 178), "suprabasal": (230, 159, 0), "no layer": (153, 153, 153)}
"""Classes of cells by their layer (1, above, none), with their colours."""


def layers_rows(record: StageRecord, path: Path) -> pd.DataFrame:
    """The layers of a slide for a table of several slides, with outcome, pattern and background.

    A slide whose table at ``path`` is empty has one row whose layer is null.
    """
    table = pd.read_parquet(path)
    if table.empty:
        table = table.reindex([0]).assign(slide=record.partition)
    values = {name: value for name, value in record.values.items() if name == "pattern" or name.startswith("i0_")}
    table = table.assign(outcome=record.outcome, **values)
    whole = dict.fromkeys(("layer", "area_px", "cells"), "Int64")
    return table.astype(whole | dict.fromkeys(("slide", "outcome", "pattern", "i0_source"), "string"))


def layer_classes(count: int) -> dict[int, tuple[str, Rgb]]:
    """Name and colour of each of ``count`` layers, by number."""
    return {
        number: (f"layer {number}{' (basal)' if number == 1 else ''}", colour)
        for number, colour in enumerate(layer_colours(count)[1:], 1)
    }


def place_cells(cells: pd.DataFrame, cell_layers: pd.DataFrame) -> pd.DataFrame:
    """The rows of cells with layer, distance and depth, and ``class``, one of :data:`CELL_CLASSES`."""
    placed = cells.merge(cell_layers, on="cell_id", how="left")
    placed["class"] = np.select([placed["layer"] == 1, placed["layer"] > 1], ["basal", "suprabasal"], "no layer")
    return placed


@dataclass
class LayersStage(SkinStage[LayersResult]):
    """Computes the tables, `layers.ome.tif`, `layers.geojson`, `cells.geojson` and the figure of each slide.

    The tables are `layers.parquet`, `cell_layers.parquet`, `profile.parquet`, `relative.parquet` and `zones.parquet`.
    """

    root: DataRoot
    layers: LayerSettings
    figures: bool = True
    asset = "epidermis_layers"
    phase = "measure"
    reads_cells = True

    def inputs(self, key: str) -> dict[str, str]:
        """The data versions of image, mask and cells."""
        return versions_of(self.root, key, "slide_images", "epidermis_masks", "cell_masks")

    def result(self, skin: SkinInput) -> LayersResult:
        """Divides the epidermis into layers and measures them."""
        return measure_layers(skin.slide, skin.mask, skin.instances, skin.cells, self.layers, self.check)

    def save(self, key: str, found: tuple[SkinInput, LayersResult], folder: Path) -> StageResult:
        """Writes tables, map, outlines and figure."""
        skin, result = found
        warning = synthetic_warning(skin.cells_record.values)  # which says it of the mask's network, too
        return write_layers(
            folder, skin.slide, skin.instances, skin.cells, result, dict(skin.seconds), warning, figure=self.figures
        )


def write_layers(
    folder: Path,
    slide: Slide,
    instances: LabelArray,
    cells: pd.DataFrame,
    result: LayersResult,
    seconds: dict[str, float],
    warning: str,
    stem: str = "",
    *,
    figure: bool = True,
) -> StageResult:
    """Writes the layers of a slide: tables, map, outlines of layers and of cells with their layer, and figure.

    To ``seconds``, the wall time of earlier phases, those of writing are added. ``warning`` is what every file says of
    the networks. Without ``stem``, files are named as in the data root.
    Without ``figure``, none is drawn.
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
    if figure:
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
