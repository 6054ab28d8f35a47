"""Cells of the epidermis: hematoxylin, Cellpose, an instance map at full resolution and a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import TissueClass
from dermatome.errors import BadAnnotation, BadSetting
from dermatome.geometry import Box
from dermatome.skin.cell_flows import Flows, flows_to_cells, network_flows
from dermatome.skin.cell_image import CellImage, prepare_cell_image
from dermatome.skin.cell_network import CellNetwork
from dermatome.slide import Slide
from dermatome.stain import DECADIC_OD_PER_UNIT

Instances = npt.NDArray[np.int32]
DiameterSource = Literal["setting", "size model", "training diameter"]

CELL_COLUMNS = {
    "cell_id": "int32",
    "centroid_y_px": "float64",
    "centroid_x_px": "float64",
    "area_px": "int64",
    "area_um2": "float64",
    "equivalent_diameter_px": "float64",
    "equivalent_diameter_um": "float64",
    "mean_h_od": "float64",
    "mean_dab_od": "float64",
}


class CellsOutcome(StrEnum):
    """How a segmentation ended; each is a result, not a failure."""

    CELLS = "cells"
    NO_EPIDERMIS = "no_epidermis"
    NO_CELLS = "no_cells"


@dataclass(frozen=True)
class CellSettings:
    """Settings of :func:`segment_cells`.

    Attributes:
        diameter_um: of a cell as the network is to see it; None takes the network's size estimate where it has one,
            else the diameter it was trained on.
        flow_threshold: Cellpose's; 0 keeps every cell.
        cellprob_threshold: Cellpose's; a logit.
        min_area_um2: smaller cells are dropped.
        margin_um: how far beyond the epidermis the network looks, so that cells at its edge are seen whole.
        batch: tiles at once.
        tile_overlap: of the network's tiles, Cellpose's meaning.
    """

    diameter_um: float | None = None
    flow_threshold: float = 0.4
    cellprob_threshold: float = 0.0
    min_area_um2: float = 8.0
    margin_um: float = 12.0
    batch: int = 8
    tile_overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.diameter_um is not None and not 1 <= self.diameter_um <= 200:
            raise BadSetting(f"The cell diameter is {self.diameter_um} µm: give one between 1 and 200, or none.")
        if self.min_area_um2 < 0 or self.margin_um < 0 or self.batch < 1 or not 0.05 <= self.tile_overlap <= 0.5:
            raise BadSetting(
                "The smallest cell area and the margin must not be negative, the batch at least 1 and the tile overlap "
                f"between 0.05 and 0.5: check {self}."
            )


@dataclass(frozen=True)
class CellsResult:
    """Cells of one slide.

    Attributes:
        instances: (H, W) int32, the slide's size; 0 or a cell's number, 1..N in reading order of their first pixels.
        table: a row for each cell, columns :data:`CELL_COLUMNS`; ``…_od`` is decadic (log10) optical density, as
            in the tables of layers.
        outcome: cells, or why there are none.
        diameter_px: what cells were taken to measure; None where the network was not run.
        diameter_source: where that came from.
        crop: the part of the slide the network was shown; None likewise.
        h: (h, w) float32, hematoxylin of ``crop``, in the unit of :func:`dermatome.stain.separate_stains`.
        h_equalised: (h, w) uint8, the same as the network saw it.
        seconds: by phase.
        seam_density: cells per mm² of epidermis within a cell diameter of a tile seam and elsewhere, and their ratio;
            empty where there are no seams or no cells.
    """

    instances: Instances
    table: pd.DataFrame
    outcome: CellsOutcome
    diameter_px: float | None = None
    diameter_source: DiameterSource | None = None
    crop: Box | None = None
    h: npt.NDArray[np.float32] | None = None
    h_equalised: npt.NDArray[np.uint8] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    seam_density: dict[str, float] = field(default_factory=dict)


def segment_cells(
    slide: Slide,
    tissue_mask: npt.NDArray[np.uint8],
    network: CellNetwork,
    settings: CellSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> CellsResult:
    """Segments the cells of all the epidermis of a slide, islands included.

    Flows are blended over overlapping tiles, and dynamics run once over the box of all epidermis, so no cell is cut
    or doubled at a tile's edge. A cell belongs to the epidermis if most of its pixels do. Memory: about 60 bytes for
    each pixel of that box.

    Args:
        slide: the IHC slide.
        tissue_mask: (H, W) uint8, :class:`TissueClass`, the slide's size.
        network: loaded once by the caller, for many slides.
        settings: defaults where None.
        progress: told what is going on, in words.

    Raises:
        BadAnnotation: the mask has another size than the slide.
        BadSetting: the cell diameter cannot be right for this slide's mpp.
    """
    settings = settings or CellSettings()
    if tissue_mask.shape != slide.pixels.shape[:2]:
        raise BadAnnotation(
            f"The tissue mask of {slide.name} is {tissue_mask.shape[1]}×{tissue_mask.shape[0]} px and the image "
            f"{slide.size.width_px}×{slide.size.height_px} px: make the mask again from this image."
        )
    say = progress or (lambda text: None)
    min_area_px = max(1, round(settings.min_area_um2 / slide.mpp**2))
    instances = np.zeros(tissue_mask.shape, dtype=np.int32)
    epidermis = tissue_mask == TissueClass.EPIDERMIS
    if np.count_nonzero(epidermis) < min_area_px:
        return CellsResult(instances, empty_table(), CellsOutcome.NO_EPIDERMIS)
    seconds: dict[str, float] = {}
    with _timed(seconds, "prepare"):
        crop = _box_of(epidermis).expanded(round(settings.margin_um / slide.mpp), slide.size)
        inside = np.ascontiguousarray(epidermis[crop.slices])
        image = prepare_cell_image(slide.pixels[crop.slices], inside, slide.mpp, settings.margin_um)

    def flows_at(diameter_px: float) -> Flows:
        return network_flows(
            network,
            image.network_input,
            image.near,
            diameter_px,
            batch=settings.batch,
            tile_overlap=settings.tile_overlap,
            on_tile=lambda done, count: say(f"{slide.name}: Cellpose tile {done} of {count}"),
        )

    def cells_of(flows: Flows, diameter_px: float) -> Instances:
        return flows_to_cells(
            network,
            flows,
            diameter_px,
            flow_threshold=settings.flow_threshold,
            cellprob_threshold=settings.cellprob_threshold,
            min_area_px=min_area_px,
        )

    with _timed(seconds, "diameter"):
        diameter_px, source = _diameter(slide.mpp, network, settings, flows_at, cells_of)
    with _timed(seconds, "network"):
        flows = flows_at(diameter_px)
    with _timed(seconds, "dynamics"):
        found = number_in_reading_order(_of_the_epidermis(cells_of(flows, diameter_px), inside))
    with _timed(seconds, "table"):
        instances[crop.slices] = found
        table = _cell_table(found, image, crop, slide.mpp)
    return CellsResult(
        instances,
        table,
        CellsOutcome.CELLS if len(table) else CellsOutcome.NO_CELLS,
        diameter_px,
        source,
        crop,
        image.h,
        image.h_equalised,
        seconds,
        _seam_density(table, inside, flows, crop, diameter_px, slide.mpp),
    )


def empty_table() -> pd.DataFrame:
    """A table of no cells, with the columns and types of one."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in CELL_COLUMNS.items()})


def number_in_reading_order(labels: Instances) -> Instances:
    """(H, W) int32 with the same cells numbered 1..N by their first pixel, row by row."""
    values, first = np.unique(labels.ravel(), return_index=True)
    values, first = values[values > 0], first[values > 0]
    renumbered = np.zeros(int(labels.max(initial=0)) + 1, dtype=np.int32)
    renumbered[values[np.argsort(first)]] = np.arange(1, values.size + 1)
    return np.asarray(renumbered[labels], dtype=np.int32)


def _diameter(
    mpp: float,
    network: CellNetwork,
    settings: CellSettings,
    flows_at: Callable[[float], Flows],
    cells_of: Callable[[Flows, float], Instances],
) -> tuple[float, DiameterSource]:
    if settings.diameter_um is not None:
        return settings.diameter_um / mpp, "setting"
    if network.size_model is not None:
        # Cellpose's two steps: a first guess from the style at full size, then the cells found at that guess.
        guess = network.size_model.diameter(flows_at(network.diameter_px).style)
        areas = np.bincount(cells_of(flows_at(guess), guess).ravel())[1:]
        areas = areas[areas > 0]
        return float(np.median(np.sqrt(4 * areas / np.pi))) if areas.size else guess, "size model"
    return (network.diameter_um / mpp if network.diameter_um else network.diameter_px), "training diameter"


def _of_the_epidermis(labels: Instances, epidermis: npt.NDArray[np.bool_]) -> Instances:
    """Drops cells most of whose pixels lie outside ``epidermis``."""
    sizes = np.bincount(labels.ravel())
    within = np.bincount(labels[epidermis], minlength=sizes.size)
    keep = 2 * within > sizes
    keep[0] = False
    return np.where(keep[labels], labels, 0).astype(np.int32)


def _cell_table(labels: Instances, image: CellImage, crop: Box, mpp: float) -> pd.DataFrame:
    rows, columns = np.nonzero(labels)
    owner = labels[rows, columns]
    count = int(owner.max(initial=0))
    if count == 0:
        return empty_table()
    area = np.bincount(owner, minlength=count + 1)[1:]

    def mean(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        return np.asarray(np.bincount(owner, weights=values, minlength=count + 1)[1:] / area, dtype=np.float64)

    diameter_px = np.sqrt(4 * area / np.pi)
    table = pd.DataFrame(
        {
            "cell_id": np.arange(1, count + 1),
            "centroid_y_px": mean(rows) + crop.top_px,
            "centroid_x_px": mean(columns) + crop.left_px,
            "area_px": area,
            "area_um2": area * mpp**2,
            "equivalent_diameter_px": diameter_px,
            "equivalent_diameter_um": diameter_px * mpp,
            "mean_h_od": mean(image.h[rows, columns]) * DECADIC_OD_PER_UNIT,
            "mean_dab_od": mean(image.dab[rows, columns]) * DECADIC_OD_PER_UNIT,
        }
    )
    return table.astype(CELL_COLUMNS)


def _seam_density(
    table: pd.DataFrame, epidermis: npt.NDArray[np.bool_], flows: Flows, crop: Box, diameter_px: float, mpp: float
) -> dict[str, float]:
    at_seam = np.zeros(epidermis.shape, dtype=bool)
    for axis, seams in enumerate((flows.seam_rows_px, flows.seam_columns_px)):
        for seam in seams:
            band = slice(max(0, round(seam - diameter_px)), max(0, round(seam + diameter_px)))
            at_seam[(band, slice(None)) if axis == 0 else (slice(None), band)] = True
    areas_mm2 = [float(np.count_nonzero(epidermis & where)) * mpp**2 / 1e6 for where in (at_seam, ~at_seam)]
    if len(table) == 0 or min(areas_mm2) == 0:
        return {}
    rows = (table["centroid_y_px"].to_numpy() - crop.top_px).round().astype(int)
    columns = (table["centroid_x_px"].to_numpy() - crop.left_px).round().astype(int)
    count = int(at_seam[rows, columns].sum())
    near, elsewhere = count / areas_mm2[0], (len(table) - count) / areas_mm2[1]
    densities = {"at_seams_per_mm2": near, "elsewhere_per_mm2": elsewhere}
    return {**densities, "ratio": near / elsewhere} if elsewhere else densities


def _box_of(where: npt.NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(where.any(axis=1)), np.flatnonzero(where.any(axis=0))
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    """Notes the seconds of its block."""
    started = time.monotonic()
    yield
    seconds[phase] = time.monotonic() - started
