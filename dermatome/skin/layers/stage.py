"""The stage `epidermis_layers`: the epidermal layers of a slide and the stains in them, file to file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dermatome.classes import LabelArray
from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.pipeline.cached_stage import Stage
from dermatome.pipeline.stage_files import load_slide, timed, versions_of, write_figure, write_rows
from dermatome.skin.layers.figures import layers_figure
from dermatome.skin.layers.measure import LayerOutcome, LayersResult, measure_layers
from dermatome.skin.layers.settings import LayerSettings
from dermatome.skin.stage_files import LAYERS_TABLE, is_synthetic, load_cell_map, load_tissue_mask
from dermatome.slides.slide import Slide
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import StageResult, content_version
from dermatome.training.weights import SYNTHETIC_WARNING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Input:
    slide: Slide
    mask: LabelArray
    instances: LabelArray
    cells: pd.DataFrame
    warning: str
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Measured:
    slide: Slide
    result: LayersResult
    warning: str
    seconds: dict[str, float]


@dataclass
class LayersStage(Stage[_Input, _Measured]):
    """Computes the tables, `layers.ome.tif` and the figure of each slide.

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
        return _Input(slide, mask, instances, cells, SYNTHETIC_WARNING if is_synthetic(made) else "", seconds)

    def pixels(self, loaded: _Input) -> int:
        """Size of the image, px."""
        return loaded.slide.size.area_px

    def compute(self, loaded: Sequence[_Input]) -> list[_Measured]:
        """Cuts and measures the layers."""
        found = []
        for one in loaded:
            with timed(one.seconds, "measure"):
                result = measure_layers(
                    one.slide, one.mask, one.instances, one.cells, self.layers, self.check
                )  # fmt: skip
            found.append(_Measured(one.slide, result, one.warning, one.seconds))
        return found

    def save(self, key: str, found: _Measured, folder: Path) -> StageResult:
        """Writes tables, map and figure."""
        slide, result, seconds = found.slide, found.result, dict(found.seconds)
        with timed(seconds, "write"):
            for name, rows in (
                (LAYERS_TABLE, result.layers),
                ("cell_layers.parquet", result.cell_layers),
                ("profile.parquet", result.profile),
                ("relative.parquet", result.relative),
                ("zones.parquet", result.zones),
            ):
                write_rows(folder / name, key, rows, warning=found.warning)
            write_ome_tiff(folder / "layers.ome.tif", result.layer_map, slide.mpp, name=key, warning=found.warning)
        with timed(seconds, "figure"):
            write_figure(folder, layers_figure(slide, result))
        return StageResult(
            outcome=result.outcome.value,
            message="" if result.outcome is LayerOutcome.MEASURED else result.message,
            data_version=content_version([*result.layer_map.content(), result.layers.to_csv().encode()]),
            values={
                "synthetic": bool(found.warning),
                "mpp": slide.mpp,
                "mpp_source": slide.mpp_source.value,
                "layers": len(result.layers),
                "layer_um": result.layer_um,
                "h_score": result.h_score,
                "positive_share": result.positive_share,
                "pattern": result.pattern.value if result.pattern is not None else None,
                "detached_um2": result.detached_um2,
                **result.background.values,
            },
            seconds=seconds,
            checks=(result.background.check(), result.background.stains_check()),
        )
