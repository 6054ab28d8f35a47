"""Cells of the epidermis: hematoxylin, Cellpose, an instance map at full resolution and a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import LabelArray, TissueClass
from dermatome.errors import BadAnnotation
from dermatome.geometry import Box
from dermatome.imaging.background import Background
from dermatome.imaging.ihc_stains import StainVectors, slide_stains
from dermatome.labels.object_table import empty_table
from dermatome.labels.tiled import TiledArray
from dermatome.pipeline.stage_files import timed
from dermatome.skin.cells.blocks import CellPixels, Dynamics, cells_by_block
from dermatome.skin.cells.flows import MAX_SCALE, CellFlows
from dermatome.skin.cells.image import CellImage
from dermatome.skin.cells.network import CellNetwork
from dermatome.skin.cells.segmenters import Segmenter, cells_by_window, seams
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.cells.size import estimate_diameter
from dermatome.skin.cells.table import CELL_COLUMNS, CellCollector, SeamDensity
from dermatome.slides.slide import Slide

_ESTIMATES_UM = (2.0, 60.0)
"""The largest are swollen keratinocytes, three times as wide as any nucleus."""

_SEAM_UM = 10.0
"""How near a seam of windows cells are counted as at it, about the width of a cell."""

DiameterSource = Literal["setting", "size model", "training diameter"]


class CellsOutcome(StrEnum):
    """How a segmentation ended; each is a result, not a failure."""

    CELLS = "cells"
    NO_EPIDERMIS = "no_epidermis"
    NO_CELLS = "no_cells"


@dataclass(frozen=True)
class CellsResult:
    """Cells of one slide.

    Attributes:
        instances: the slide's size; 0 or a cell's number, 1..N in reading order of their first pixels.
        table: a row for each cell, columns :data:`dermatome.skin.cells.table.CELL_COLUMNS`; ``…_od`` is decadic (log10)
            optical density, as in the tables of layers.
        outcome: cells, or why there are none.
        diameter_px: assumed cell diameter in pixels; None if the network was not run.
        diameter_source: source of the diameter; None if the network was not run.
        crop: part of the slide that the network saw; None if the network was not run.
        h_equalised: (h, w) uint8, hematoxylin of ``crop`` as the network saw it, shrunk to a panel of a figure.
        tiles: of the network that were run for the cells, the size estimate not counted.
        epidermis_px: pixels of epidermis.
        seconds: by phase.
        seam_density: cells per mm² of epidermis within a cell diameter of a tile seam and elsewhere, and their ratio;
            empty where there are no seams or no cells.
        background: the slide's background, whose light the optical densities of ``table`` are relative to.
            They are null if its colours are not stains.
        vectors: the colours that the stains of ``table`` are separated with.
    """

    instances: TiledArray
    table: pd.DataFrame
    outcome: CellsOutcome
    diameter_px: float | None = None
    diameter_source: DiameterSource | None = None
    crop: Box | None = None
    h_equalised: npt.NDArray[np.uint8] | None = None
    tiles: int = 0
    epidermis_px: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    seam_density: dict[str, float] = field(default_factory=dict)
    background: Background = field(default_factory=Background)
    vectors: StainVectors = field(default_factory=StainVectors)


def segment_cells(
    slide: Slide,
    tissue_mask: LabelArray,
    network: CellNetwork | Segmenter,
    settings: CellSettings | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    block_px: int | None = None,
) -> CellsResult:
    """Segments the cells of all the epidermis of a slide, islands included.

    The algorithm is the same for every size and its memory is bounded: tiles of one grid go through the network from
    top to bottom, their flows are blended, and each row of blocks is turned into cells. A cell belongs to the one block
    that holds its sink (:mod:`dermatome.skin.cells.blocks`), and to the epidermis if most of its pixels do.

    Another :class:`~dermatome.skin.cells.segmenters.Segmenter` gives the instances of overlapping windows instead, of
    which each keeps those whose centre is in it; the rest is the same.

    The network runs in the caller's thread and in the runner's own; dynamics run beside it in ``compute.threads``
    threads. The result is compressed and needs neither network nor device, so another thread may write its files,
    outlines and figure while the next slide is segmented. One network must not be used by two threads at once.

    Args:
        slide: the IHC slide; its pixels are read in boxes.
        tissue_mask: (H, W) uint8, :class:`TissueClass`, the slide's size; an array or what is read like one.
        network: Cellpose's or another segmenter, loaded once by the caller, for many slides.
        settings: defaults where None.
        progress: called with a short sentence at every step.
        block_px: side of the blocks in which flows become cells; None chooses. It does not change the result.

    Raises:
        BadAnnotation: the mask has another size than the slide.
        BadSetting: the cell diameter cannot be right for this slide's mpp.
    """
    settings = settings or CellSettings()
    size = slide.size
    if tuple(tissue_mask.shape) != (size.height_px, size.width_px):
        raise BadAnnotation(
            f"The tissue mask of {slide.name} is {tissue_mask.shape[1]}×{tissue_mask.shape[0]} px and the image "
            f"{size.width_px}×{size.height_px} px: make the mask again from this image."
        )
    say = progress or (lambda text: None)
    min_area_px = max(1, round(settings.min_area_um2 / slide.mpp**2))
    seconds: dict[str, float] = {}
    with timed(seconds, "prepare"):
        background, vectors = slide_stains(slide, settings.stain_vectors)
        image = CellImage(
            size,
            lambda box: slide.pixels[box.slices],
            lambda box: np.asarray(tissue_mask[box.slices] == TissueClass.EPIDERMIS, dtype=bool),
            slide.mpp,
            settings.margin_um,
        )
    region = image.region
    if region is None or image.epidermis_px < min_area_px:
        return CellsResult(
            TiledArray(size), empty_table(CELL_COLUMNS), CellsOutcome.NO_EPIDERMIS,
            epidermis_px=image.epidermis_px, background=background, vectors=vectors,
        )  # fmt: skip

    if not isinstance(network, CellNetwork):
        halo_px = round(network.halo_um / slide.mpp)
        with timed(seconds, "cells"):
            found = cells_by_window(
                network.on(image, slide.mpp), image, region, halo_px=halo_px, min_area_px=min_area_px
            )
            labels, table = _collected(found, image, background, vectors, slide.mpp, say)
        near = SeamDensity(*seams(region), _SEAM_UM / slide.mpp, size).of(table, image, slide.mpp)
        return CellsResult(
            labels, table, CellsOutcome.CELLS if len(table) else CellsOutcome.NO_CELLS, crop=region,
            h_equalised=image.equalised_panel(), epidermis_px=image.epidermis_px, seconds=seconds, seam_density=near,
            background=background, vectors=vectors,
        )  # fmt: skip

    def flows_in(box: Box, diameter_px: float) -> CellFlows:
        return CellFlows(
            network,
            image,
            box,
            diameter_px,
            batch=settings.batch,
            tile_overlap=settings.tile_overlap,
            on_tile=lambda done, count: say(f"{slide.name}: Cellpose tile {done} of {count}"),
        )

    def dynamics_at(diameter_px: float) -> Dynamics:
        return Dynamics(
            diameter_px,
            # Cellpose takes 200 steps at the network's scale; at full resolution a cell is crossed in as many more.
            steps=max(20, round(200 * diameter_px / network.diameter_px)),
            flow_threshold=settings.flow_threshold,
            cellprob_threshold=settings.cellprob_threshold,
            min_area_px=min_area_px,
            threads=network.compute.threads,
            block_px=block_px,
        )

    source: DiameterSource = "setting"
    with timed(seconds, "diameter"):
        if settings.diameter_um is not None:
            diameter_px = settings.diameter_um / slide.mpp
        elif network.size_model is not None:
            source = "size model"
            bounds_px = _estimates_px(network.diameter_px, slide.mpp)
            diameter_px = estimate_diameter(
                image, network.size_model, network.diameter_px, flows_in, dynamics_at, bounds_px
            )
        else:
            source = "training diameter"
            diameter_px = network.diameter_um / slide.mpp if network.diameter_um else network.diameter_px
    with timed(seconds, "cells"):
        flows = flows_in(region, diameter_px)
        blocks = cells_by_block(flows, region, image.may_be_near, dynamics_at(diameter_px))
        labels, table = _collected(blocks, image, background, vectors, slide.mpp)
    with timed(seconds, "table"):
        at_seams = SeamDensity(flows.seam_rows_px, flows.seam_columns_px, diameter_px, size)
        density = at_seams.of(table, image, slide.mpp)
    return CellsResult(
        labels,
        table,
        CellsOutcome.CELLS if len(table) else CellsOutcome.NO_CELLS,
        diameter_px,
        source,
        region,
        image.equalised_panel(),
        flows.tiles,
        image.epidermis_px,
        seconds,
        density,
        background,
        vectors,
    )


def _collected(
    found: Iterable[tuple[CellPixels, int]],
    image: CellImage,
    background: Background,
    vectors: StainVectors,
    mpp: float,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[TiledArray, pd.DataFrame]:
    """The instance map and the table of cells that come part by part."""
    collector = CellCollector(image, background, vectors)
    for count, (pixels, final_above) in enumerate(found, 1):
        collector.add(pixels)
        collector.final_above(final_above)
        say(f"part {count}")
    table = collector.finish(mpp)
    return collector.labels, table


def _estimates_px(network_px: float, mpp: float) -> tuple[float, float]:
    """The diameters an estimate may give: of cells and nuclei in skin, and what can be scaled to the network's."""
    smallest, largest = (um / mpp for um in _ESTIMATES_UM)
    low, high = network_px / MAX_SCALE, network_px * MAX_SCALE
    return min(max(smallest, low), high), max(min(largest, high), low)
