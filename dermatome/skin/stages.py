"""The per-slide stages, file to file: each reads what earlier ones left, computes, writes, and says what it made."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dermatome import figures, label_io
from dermatome.classes import TissueClass
from dermatome.data_root import CHAMPION, PREVIEW_FILE, DataRoot
from dermatome.files import write_whole
from dermatome.skin.cells import CellSettings, CellsOutcome, segment_cells
from dermatome.skin.layers import LayerOutcome, LayerSettings, measure_layers
from dermatome.skin.tissue import TissueOutcome, TissueSettings, segment_tissue
from dermatome.slide import Slide
from dermatome.slide_source import open_slide
from dermatome.stage_record import Check, StageResult, content_version, made_by, made_files, read_record, write_table

if TYPE_CHECKING:
    import pandas as pd

    from dermatome.compute import Compute
    from dermatome.skin.cell_network import CellNetwork
    from dermatome.weights import LoadedWeights

MASK_FILE = "mask.npz"
CELLS_FILE = "cells.npz"
CELLS_TABLE = "cells.parquet"
LAYERS_TABLE = "layers.parquet"
FIGURE_FILE = "figure.png"

_TISSUE_COLOURS = {int(c): (c.label, c.colour) for c in TissueClass}
# Nuclei in interfollicular epidermis lie at roughly 3,000 to 12,000 per mm²; wider, as sections are cut obliquely.
_CELLS_PER_MM2 = (500.0, 25_000.0)
"""Bounds of the plausible nucleus density in epidermis."""


def make_mask(
    root: DataRoot, slide_id: str, folder: Path, weights: LoadedWeights, compute: Compute, settings: TissueSettings
) -> StageResult:
    """The tissue mask of one slide: `mask.npz`, `mask.ome.tif`, `tissue.geojson`, `figure.png`.

    Raises:
        MissingInput: no image.
        BadImage: the image is not the verified one.
    """
    clock = _Clock()
    slide = _slide(root, slide_id)
    clock.lap("decode")
    found = segment_tissue(slide, weights, compute, settings)
    clock.lap("segment")
    label_io.save_mask(folder / MASK_FILE, found.mask, found.crop)
    label_io.write_ome_tiff(folder / "mask.ome.tif", found.mask, slide.mpp, _TISSUE_COLOURS, name=slide_id)
    outlines = label_io.tissue_geojson(found.mask, mpp=slide.mpp, slide=slide_id)
    label_io.write_geojson(folder / "tissue.geojson", outlines)
    figure = figures.tissue_figure(slide, found)
    _write_figure(folder, figure)
    clock.lap("write")
    shares = {c.label: float(np.mean(found.mask == c)) for c in TissueClass}
    tissue = 1 - shares["background"]
    plausible = 0.001 <= shares["epidermis"] <= 0.9
    return StageResult(
        outcome=found.outcome.value,
        message=""
        if found.outcome is TissueOutcome.TISSUE
        else f"{slide_id} has no epidermis; cells and layers will say the same.",
        data_version=content_version([found.mask.tobytes(), repr(found.mask.shape).encode()]),
        values={
            "weights": weights.path.parent.name,
            "weights_sha256": weights.sha256,
            "device": compute.device_name,
            "precision": compute.precision,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            "crop_top_px": found.crop.top_px,
            "crop_left_px": found.crop.left_px,
            "crop_bottom_px": found.crop.bottom_px,
            "crop_right_px": found.crop.right_px,
            "mean_confidence": found.mean_confidence,
            "tiles": found.tiles,
            **{f"{name}_share": share for name, share in shares.items()},
            "epidermis_um2": shares["epidermis"] * slide.size.area_px * slide.mpp**2,
        },
        seconds=clock.seconds | {f"segment_{name}": value for name, value in found.seconds.items()},
        checks=(
            Check(
                "tissue_fraction",
                passed=0.02 <= tissue <= 0.98,
                description=f"{tissue:.1%} of the slide is tissue (expected 2 % to 98 %).",
                values={"tissue_share": tissue},
            ),
            Check(
                "epidermis_plausible",
                passed=plausible,
                description=f"{shares['epidermis']:.2%} of the slide is epidermis (expected 0.1 % to 90 %).",
                values={"epidermis_share": shares["epidermis"]},
            ),
        ),
    )


def make_cells(
    root: DataRoot, slide_id: str, folder: Path, network: CellNetwork, compute: Compute, settings: CellSettings
) -> StageResult:
    """The cells in the epidermis of one slide: `cells.npz`, `cells.parquet`, `cells.ome.tif`, `cells.geojson`, figure.

    Raises:
        MissingInput: no image or no mask.
    """
    clock = _Clock()
    slide = _slide(root, slide_id)
    mask = _mask(root, slide_id)
    clock.lap("decode")
    found = segment_cells(slide, mask, network, settings)
    clock.lap("segment")
    label_io.save_instances(folder / CELLS_FILE, found.instances)
    label_io.write_ome_tiff(folder / "cells.ome.tif", found.instances, slide.mpp, {}, name=slide_id)
    outlines = label_io.cells_geojson(found.instances, found.table, slide=slide_id)
    label_io.write_geojson(folder / "cells.geojson", outlines)
    _write_rows(folder / CELLS_TABLE, slide_id, found.table)
    _write_figure(folder, figures.cells_figure(slide, mask, found))
    clock.lap("write")
    epidermis_um2 = float(np.count_nonzero(mask == TissueClass.EPIDERMIS)) * slide.mpp**2
    mask_weights = made_by(root, "epidermis_masks", slide_id).values["weights_sha256"]
    density = len(found.table) / (epidermis_um2 / 1e6) if epidermis_um2 else None
    low, high = _CELLS_PER_MM2
    checks = [
        Check(
            "cell_density",
            passed=density is not None and low <= density <= high,
            description=f"{density:,.0f} cells per mm² of epidermis (expected {low:,.0f} to {high:,.0f})."
            if density is not None
            else "No epidermis to find cells in.",
            values={"cells_per_mm2": density},
        ),
        _seam_check(found.seam_density),
    ]
    return StageResult(
        outcome=found.outcome.value,
        message="" if found.outcome is CellsOutcome.CELLS else f"{slide_id}: {found.outcome.value.replace('_', ' ')}.",
        data_version=content_version([found.instances.tobytes(), repr(found.instances.shape).encode()]),
        values={
            "weights": network.name,
            "weights_sha256": network.sha256,
            "mask_weights_sha256": mask_weights,
            "device": compute.device_name,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            "cells": len(found.table),
            "cells_per_mm2": density,
            "diameter_px": found.diameter_px,
            "diameter_source": found.diameter_source,
        },
        seconds=clock.seconds | {f"segment_{name}": value for name, value in found.seconds.items()},
        checks=tuple(checks),
    )


def make_layers(root: DataRoot, slide_id: str, folder: Path, settings: LayerSettings) -> StageResult:
    """The epidermal layers of one slide: `layers.parquet`, `cell_layers.parquet`, `layers.ome.tif`, figure.

    Raises:
        MissingInput: no image, mask or cells.
    """
    clock = _Clock()
    slide = _slide(root, slide_id)
    mask = _mask(root, slide_id)
    with made_files(root, "cell_masks", slide_id, CELLS_FILE, CELLS_TABLE) as (_, cells_folder):
        instances = label_io.load_instances(cells_folder / CELLS_FILE)
        table = _read_rows(cells_folder / CELLS_TABLE)
    clock.lap("decode")
    found = measure_layers(slide, mask, instances, table, settings)
    clock.lap("measure")
    _write_rows(folder / LAYERS_TABLE, slide_id, found.layers)
    _write_rows(folder / "cell_layers.parquet", slide_id, found.cell_layers)
    _write_rows(folder / "profile.parquet", slide_id, found.profile)
    label_io.write_ome_tiff(folder / "layers.ome.tif", found.layer_map, slide.mpp, {}, name=slide_id)
    _write_figure(folder, figures.layers_figure(slide, mask, found))
    clock.lap("write")
    return StageResult(
        outcome=found.outcome.value,
        message="" if found.outcome is LayerOutcome.MEASURED else found.message,
        data_version=content_version([found.layer_map.tobytes(), found.layers.to_csv().encode()]),
        values={
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            "layers": len(found.layers),
            "layer_um": found.layer_um,
            "h_score": found.h_score,
            "positive_share": found.positive_share,
            "pattern": found.pattern.value if found.pattern is not None else None,
            "detached_um2": found.detached_um2,
        },
        seconds=clock.seconds,
    )


def check_champion(root: DataRoot, slide_id: str) -> Check:
    """Whether a slide's mask was made with the weights that are the champion now.

    Raises:
        MissingInput: the slide has no mask.
    """
    used = made_by(root, "epidermis_masks", slide_id).values["weights_sha256"]
    champion = read_record(root.record("tissue_champion", CHAMPION))
    passed = champion is not None and used == champion.values["weights_sha256"]
    made_with = "the present champion's weights" if passed else "other weights than the present champion's"
    return Check(
        "mask_made_with_champion", passed, f"The mask was made with {made_with}.", {"weights_sha256": str(used)}
    )


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


def _slide(root: DataRoot, slide_id: str) -> Slide:
    with made_files(root, "slide_images", slide_id) as (record, folder):
        return open_slide(folder, slide_id, dict(record.values))


def _mask(root: DataRoot, slide_id: str) -> Any:
    with made_files(root, "epidermis_masks", slide_id, MASK_FILE) as (_, folder):
        mask, _ = label_io.load_mask(folder / MASK_FILE)
    return mask


def _write_figure(folder: Path, figure: bytes) -> None:
    write_whole(folder / FIGURE_FILE, figure)
    write_whole(folder / PREVIEW_FILE, figures.preview(figure))


def _write_rows(path: Path, slide_id: str, rows: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(rows, preserve_index=False)
    names = pa.array([slide_id] * table.num_rows, pa.string())
    write_table(path, table.add_column(0, "slide", names).replace_schema_metadata(None))


def _read_rows(path: Path) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(io.BytesIO(path.read_bytes())).drop(columns="slide")


def _seam_check(seams: dict[str, Any]) -> Check:
    ratio = seams.get("ratio")
    return Check(
        "seam_density",
        passed=ratio is None or 0.5 <= ratio <= 2.0,
        description="No tile seams crossed tissue."
        if ratio is None
        else f"Cells at tile seams are {ratio:.2f} times as dense as elsewhere (expected 0.5 to 2).",
        values=dict(seams),
    )
