"""Segments the cells of the epidermis: from hematoxylin to an instance map at full resolution and a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import LabelArray, RgbImage, TissueClass
from dermatome.errors import BadAnnotation
from dermatome.geometry import Box
from dermatome.imaging.background import Background
from dermatome.imaging.ihc_stains import StainVectors, slide_stains
from dermatome.imaging.stains import DECADIC_OD_PER_UNIT, Stain, separate_stains
from dermatome.inference.segmenter import Segmenter
from dermatome.labels.object_table import ObjectSums, empty_table
from dermatome.labels.tiled import TILE_PX, TiledArray
from dermatome.pipeline.stage_files import timed
from dermatome.skin.cells.blocks import CellPixels, cells_by_block
from dermatome.skin.cells.cyto2 import SizeModel
from dermatome.skin.cells.flows import MAX_SCALE, CellFlows, Dynamics
from dermatome.skin.cells.image import CellImage
from dermatome.skin.cells.network import CellNetwork
from dermatome.skin.cells.segmenters import cells_by_window, seams
from dermatome.skin.cells.settings import CellSettings
from dermatome.slides.slide import Slide

_ESTIMATES_UM = (2.0, 60.0)
"""Largest plausible diameter: that of swollen keratinocytes, three times as wide as any nucleus."""

_WHOLE_PX = 1_000_000
_PATCHES = 4
_SEAM_UM = 10.0
"""Distance from a seam of windows up to which cells count as at the seam, about the width of a cell."""

DiameterSource = Literal["setting", "size model", "training diameter"]


class CellsOutcome(StrEnum):
    """The outcome of a segmentation; all of them are results, not failures."""

    CELLS = "cells"
    NO_EPIDERMIS = "no_epidermis"
    NO_CELLS = "no_cells"


@dataclass(frozen=True)
class CellsResult:
    """Cells of one slide.

    Attributes:
        instances: the slide's size; 0 or a cell's number, 1..N in reading order of their first pixels.
        table: a row for each cell, columns :data:`CELL_COLUMNS`; ``…_od`` is decadic (log10)
            optical density, as in the tables of layers.
        outcome: cells, or why there are none.
        epidermis_px: number of pixels of epidermis.
        background: the slide's background, whose light the optical densities in ``table`` are relative to.
            They are null if its colours are not stains.
        vectors: stain vectors that the stains in ``table`` are separated with.
        seconds: wall time of each phase, s.
        diameter_px: assumed cell diameter, px; None if Cellpose was not run.
        diameter_source: source of the diameter; None if Cellpose was not run.
        crop: part of the slide that the network saw; None if it was not run.
        h_equalised: (h, w) uint8, hematoxylin of ``crop`` as input of the network, shrunk to a panel of a figure.
        tiles: number of tiles that were run for the cells, without those of the size estimate.
        seam_density: cells per mm² of epidermis near a seam of tiles and elsewhere, and their ratio; empty without
            seams or cells.
    """

    instances: TiledArray
    table: pd.DataFrame
    outcome: CellsOutcome
    epidermis_px: int
    background: Background
    vectors: StainVectors
    seconds: dict[str, float]
    diameter_px: float | None = None
    diameter_source: DiameterSource | None = None
    crop: Box | None = None
    h_equalised: npt.NDArray[np.uint8] | None = None
    tiles: int = 0
    seam_density: dict[str, float] = field(default_factory=dict)


def segment_cells(
    slide: Slide,
    tissue_mask: LabelArray,
    network: CellNetwork | Segmenter,
    settings: CellSettings | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    block_px: int | None = None,
) -> CellsResult:
    """Segments the cells of all epidermis of a slide, including islands.

    The algorithm is the same for every size, and its memory is bounded: the network is run on tiles of one grid from
    top to bottom, their flows are blended, and each row of blocks is converted to cells. A cell belongs to the block
    that contains its sink (:mod:`dermatome.skin.cells.blocks`), and to the epidermis if most of its pixels do.

    Another :class:`~dermatome.inference.segmenter.Segmenter` returns instances of overlapping windows instead. Each
    window keeps the instances whose centre is in its core; the rest is the same.

    The network runs in the caller's thread and in the runner's own; dynamics run in parallel in ``compute.threads``
    threads. The result is compressed and needs neither network nor device, so another thread may write its files,
    outlines and figure while the next slide is segmented. Two threads must not use one network at the same time.

    ``tissue_mask`` is (H, W) uint8 of :class:`TissueClass`. ``progress`` is called with a short sentence at every step.
    ``block_px`` is the side of the blocks in which flows are converted to cells; it does not change the result.

    Raises:
        BadAnnotation: the mask and the slide differ in size.
        BadSetting: the cell diameter is impossible at this slide's mpp.
    """
    settings = settings or CellSettings()
    size = slide.size
    if tuple(tissue_mask.shape) != (size.height_px, size.width_px):
        raise BadAnnotation(
            f"The tissue mask of {slide.name} is {tissue_mask.shape[1]}×{tissue_mask.shape[0]} px but the image "
            f"{size.width_px}×{size.height_px} px: compute the mask from this image again."
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
            TiledArray(size), empty_table(CELL_COLUMNS), CellsOutcome.NO_EPIDERMIS, image.epidermis_px, background,
            vectors, {},
        )  # fmt: skip

    def cells_in(box: Box, diameter_px: float) -> tuple[CellFlows, Iterator[tuple[CellPixels, int]]]:
        """The flows in a box, and the cells computed from them part by part."""
        assert isinstance(network, CellNetwork)
        flows = CellFlows(
            network, image, box, diameter_px, batch=settings.batch, tile_overlap=settings.tile_overlap,
            on_tile=lambda done, count: say(f"{slide.name}: Cellpose tile {done} of {count}"),
        )  # fmt: skip
        # Cellpose takes 200 steps at the network's scale; at full resolution, crossing a cell takes more in proportion.
        steps = max(20, round(200 * diameter_px / network.diameter_px))
        how = Dynamics(
            diameter_px, steps, settings.flow_threshold, settings.cellprob_threshold, min_area_px,
            network.compute.threads, block_px,
        )  # fmt: skip
        return flows, cells_by_block(flows, box, image.may_be_near, how)

    flows, diameter_px, source = None, None, None
    if isinstance(network, CellNetwork):
        with timed(seconds, "diameter"):
            diameter_px, source = _diameter(image, network, settings, slide.mpp, cells_in)
        flows, parts = cells_in(region, diameter_px)
        seams_px, near_px = flows.seams_px, diameter_px
    else:
        halo_px = round(network.halo_um / slide.mpp)
        parts = cells_by_window(
            network.on(image, slide.mpp), image, region, halo_px=halo_px, min_area_px=min_area_px, say=say
        )
        seams_px, near_px = seams(region), _SEAM_UM / slide.mpp
    collector = CellCollector(image, background, vectors)
    with timed(seconds, "cells"):
        for pixels, final_above in parts:
            collector.add(pixels)
            collector.final_above(final_above)
        table = collector.finish(slide.mpp)
    with timed(seconds, "table"):
        density = seam_density(table, image, slide.mpp, seams_px, near_px)
    return CellsResult(
        collector.labels, table, CellsOutcome.CELLS if len(table) else CellsOutcome.NO_CELLS, image.epidermis_px,
        background, vectors, seconds, diameter_px, source, region, image.equalised_panel(),
        flows.tiles if flows else 0, density,
    )  # fmt: skip


def _diameter(
    image: CellImage,
    network: CellNetwork,
    settings: CellSettings,
    mpp: float,
    cells_in: Callable[[Box, float], tuple[CellFlows, Iterable[tuple[CellPixels, int]]]],
) -> tuple[float, DiameterSource]:
    """The diameter of cells, px, and its source."""
    if settings.diameter_um is not None:
        return settings.diameter_um / mpp, "setting"
    if network.size_model is not None:
        bounds_px = _estimates_px(network.diameter_px, mpp)
        return estimate_diameter(image, network.size_model, network.diameter_px, cells_in, bounds_px), "size model"
    return network.diameter_um / mpp if network.diameter_um else network.diameter_px, "training diameter"


def _estimates_px(network_px: float, mpp: float) -> tuple[float, float]:
    """Range of accepted estimates, px: sizes of cells and nuclei in skin that can be scaled to the network's size."""
    smallest, largest = (um / mpp for um in _ESTIMATES_UM)
    low, high = network_px / MAX_SCALE, network_px * MAX_SCALE
    return min(max(smallest, low), high), max(min(largest, high), low)


def estimate_diameter(
    image: CellImage,
    size_model: SizeModel,
    diameter_px: float,
    cells_in: Callable[[Box, float], tuple[CellFlows, Iterable[tuple[CellPixels, int]]]],
    bounds_px: tuple[float, float],
) -> float:
    """Cellpose's two steps: a first guess from the style at full size, then the median of the cells at that guess.

    ``cellpose.models.SizeModel.eval`` uses the whole image, which costs as much as segmenting it twice more. Here, a
    region of up to a megapixel is used completely; of a larger one, four patches of about half a square millimetre each
    (at 0.5 mpp: 512 px per side), evenly chosen among those with much epidermis: a style is a mean, and the median of a
    few hundred cells is as good as that of ten thousand.

    The network is first run at ``diameter_px``. ``cells_in`` returns its flows in a box at a diameter, not yet run, and
    the cells computed from them. Diameters outside of ``bounds_px`` are rejected: for an image with little tissue, the
    model may return any number, and the cost of cells grows with its square. If no cell is found, the result is the
    first guess, px.
    """
    region = image.region
    boxes = [region] if region is not None and region.size.area_px <= _WHOLE_PX else image.full_patches(_PATCHES)
    styles = []
    for box in boxes:
        flows, _ = cells_in(box, diameter_px)
        for _ in flows.run():
            pass
        if flows.style_sum is not None:
            styles.append(flows.style_sum)
    if not styles:
        return diameter_px
    style = np.sum(styles, axis=0)
    guess = float(np.clip(size_model.diameter((style / np.linalg.norm(style)).astype(np.float32)), *bounds_px))
    areas = [np.bincount(pixels.owners) for box in boxes for pixels, _ in cells_in(box, guess)[1] if pixels.count]
    if not areas:
        return guess
    return float(np.clip(np.median(np.sqrt(4 * np.concatenate(areas) / np.pi)), *bounds_px))


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


def add_cell_pixels(
    sums: ObjectSums,
    cells: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    rgb: RgbImage,
    background: Background,
    vectors: StainVectors,
) -> None:
    """Adds P pixels of cells, in reading order, to the sums that :func:`cell_table` reads; ``rgb`` is (P, 3) uint8."""
    densities = separate_stains(rgb[:, None], (Stain.HEMATOXYLIN, Stain.DAB), background.i0, vectors.matrix)[:, 0]
    sums.add(cells, rows, columns, [densities[:, 0], densities[:, 1]])


def cell_table(ids: npt.NDArray[np.int64], sums: ObjectSums, mpp: float, background: Background) -> pd.DataFrame:
    """The table of cells, columns :data:`CELL_COLUMNS`; stains are null if the slide's colours are not stains."""
    area, y, x, h, dab = sums.finish()[1].T
    diameter_px = np.sqrt(4 * area / np.pi)
    od_per_unit = np.nan if background.no_stains else DECADIC_OD_PER_UNIT
    table = pd.DataFrame(
        {
            "cell_id": ids,
            "centroid_y_px": y / area,
            "centroid_x_px": x / area,
            "area_px": area,
            "area_um2": area * mpp**2,
            "equivalent_diameter_px": diameter_px,
            "equivalent_diameter_um": diameter_px * mpp,
            "mean_h_od": h / area * od_per_unit,
            "mean_dab_od": dab / area * od_per_unit,
        }
    )
    return table.astype(CELL_COLUMNS)


class CellCollector:
    """Takes the cells of one block after another, and drops those with most of their pixels outside the epidermis.

    Cells keep a temporary number until all rows above their first pixel are final; then they get their number in
    reading order, and their tiles are packed. Memory holds the labels of the rows in between.

    Attributes:
        labels: the instance map, complete after :meth:`finish`.
    """

    def __init__(self, image: CellImage, background: Background, vectors: StainVectors) -> None:
        """Starts without cells; background and stain vectors are those of the slide."""
        self._background, self._vectors = background, vectors
        self.labels = TiledArray(image.size)  # open tiles hold temporary numbers from 1
        self._image = image
        self._sums = ObjectSums()
        self._count = 0
        self._waiting = np.zeros((0, 3), dtype=np.int64)  # first row, first column, temporary number
        self._place = np.zeros(1024, dtype=np.int32)  # final number by temporary number
        self._placed = 0
        self._final_row_px = 0

    def add(self, cells: CellPixels) -> None:
        """Adds the cells of a block."""
        if not cells.count:
            return
        rows, columns, owners = cells.rows, cells.columns, cells.owners
        box = Box.holding(rows, columns)
        inside = self._image.read_epidermis(box)[rows - box.top_px, columns - box.left_px]
        held = self.labels.read(box)
        keep = 2 * np.bincount(owners, inside, cells.count) > np.bincount(owners, minlength=cells.count)
        # If another block's cell fills a hole across a border, the first cell keeps the pixel.
        held_here = held[rows - box.top_px, columns - box.left_px] > 0
        # Two windows may disagree by a pixel about the same cell, which is kept once.
        keep &= 2 * np.bincount(owners, held_here, cells.count) < np.bincount(owners, minlength=cells.count)
        free = keep[owners] & ~held_here
        rows, columns, owners = rows[free], columns[free], owners[free]
        names, first, owners = np.unique(owners, return_index=True, return_inverse=True)
        if not names.size:
            return
        rgb = self._image.read_rgb(box)[rows - box.top_px, columns - box.left_px]
        numbers = self._count + 1 + np.arange(names.size)
        add_cell_pixels(self._sums, numbers[owners], rows, columns, rgb, self._background, self._vectors)
        self._count += names.size
        self._waiting = np.concatenate([self._waiting, np.stack([rows[first], columns[first], numbers], axis=1)])
        held[rows - box.top_px, columns - box.left_px] = numbers[owners]
        self.labels.write(box, held)

    def final_above(self, row_px: int) -> None:
        """Numbers the cells that are complete because no later block has a pixel above ``row_px``."""
        height_px = self._image.size.height_px
        bottom = row_px // TILE_PX * TILE_PX if row_px < height_px else height_px
        if bottom <= self._final_row_px:
            return
        self._final_row_px = bottom
        now = self._waiting[:, 0] < bottom
        due = self._waiting[now]
        self._waiting = self._waiting[~now]
        due = due[np.lexsort((due[:, 1], due[:, 0]))]
        if self._count >= self._place.size:
            self._place = np.concatenate([self._place, np.zeros(2 * self._count, dtype=np.int32)])
        self._place[due[:, 2]] = self._placed + 1 + np.arange(len(due))
        self._placed += len(due)
        self.labels.pack(bottom if bottom < height_px else None, self._place)

    def finish(self, mpp: float) -> pd.DataFrame:
        """Numbers the remaining cells; returns the table, a row for each cell in the order of their numbers."""
        self.final_above(self._image.size.height_px)
        if not self._count:
            return empty_table(CELL_COLUMNS)
        return cell_table(np.arange(1, self._count + 1), self._sums, mpp, self._background)


def seam_density(
    table: pd.DataFrame, image: CellImage, mpp: float, seams_px: Sequence[Sequence[float]], reach_px: float
) -> dict[str, float]:
    """Cells per mm² of epidermis at seams and elsewhere, and their ratio, which should be about 1.

    A cell is at a seam if it lies within ``reach_px`` of one of the rows or columns ``seams_px``. The result is empty
    if either has no epidermis.
    """
    bands = [np.zeros(side, dtype=bool) for side in (image.size.height_px, image.size.width_px)]
    for band, places in zip(bands, seams_px, strict=True):
        for seam in places:
            band[max(0, round(seam - reach_px)) : max(0, round(seam + reach_px))] = True
    away_px = image.count_epidermis(~bands[0], ~bands[1])
    areas_mm2 = [pixels * mpp**2 / 1e6 for pixels in (image.epidermis_px - away_px, away_px)]
    if len(table) == 0 or min(areas_mm2) == 0:
        return {}
    rows, columns = (table[f"centroid_{side}_px"].to_numpy().round().astype(int) for side in "yx")
    count = int((bands[0][rows] | bands[1][columns]).sum())
    near, elsewhere = count / areas_mm2[0], (len(table) - count) / areas_mm2[1]
    densities = {"at_seams_per_mm2": near, "elsewhere_per_mm2": elsewhere}
    return {**densities, "ratio": near / elsewhere} if elsewhere else densities
