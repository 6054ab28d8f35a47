"""Cells of blocks collected in an instance map, numbered in reading order, and a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import RgbImage
from dermatome.geometry import Box
from dermatome.imaging.background import Background
from dermatome.imaging.ihc_stains import StainVectors
from dermatome.imaging.stains import DECADIC_OD_PER_UNIT, Stain, separate_stains
from dermatome.labels.object_table import ObjectSums, empty_table
from dermatome.labels.tiled import TILE_PX, TiledArray
from dermatome.skin.cells.blocks import CellPixels
from dermatome.skin.cells.image import CellImage

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
    """Adds P pixels of cells, in reading order, to the sums that :func:`cell_table` reads; ``rgb`` is (P, 3)."""
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
    """Takes the cells of one block after another; drops those most of whose pixels lie outside the epidermis.

    Cells keep a number of their own until all rows above their first pixel are final; then they get their place in
    reading order, and their tiles are packed. Memory holds the labels of the rows in between.

    Attributes:
        labels: the map, complete after :meth:`finish`.
    """

    def __init__(self, image: CellImage, background: Background, vectors: StainVectors) -> None:
        """Starts without cells; background and stain colours are the slide's."""
        self._background, self._vectors = background, vectors
        self.labels = TiledArray(image.size)  # open tiles hold cells by the number they came with, from 1
        self._image = image
        self._sums = ObjectSums()
        self._count = 0
        self._waiting = np.zeros((0, 3), dtype=np.int64)  # first row, first column, number: cells without a place
        self._place = np.zeros(1024, dtype=np.int32)  # of each number
        self._placed = 0
        self._final_row_px = 0

    def add(self, cells: CellPixels) -> None:
        """Takes the cells of a block."""
        if not cells.count:
            return
        rows, columns, owners = cells.rows, cells.columns, cells.owners
        box = Box.holding(rows, columns)
        inside = self._image.read_epidermis(box)[rows - box.top_px, columns - box.left_px]
        held = self.labels.read(box)
        keep = 2 * np.bincount(owners, inside, cells.count) > np.bincount(owners, minlength=cells.count)
        # Where another block's cell fills a hole over a border, the first one keeps the pixel.
        held_here = held[rows - box.top_px, columns - box.left_px] > 0
        # Two windows may disagree by a pixel about one cell: it is kept once.
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
        """Places what is left; returns the table, a row for each cell in the order of their numbers."""
        self.final_above(self._image.size.height_px)
        if not self._count:
            return empty_table(CELL_COLUMNS)
        return cell_table(np.arange(1, self._count + 1), self._sums, mpp, self._background)


def seam_density(
    table: pd.DataFrame, image: CellImage, mpp: float, seams_px: Sequence[Sequence[float]], reach_px: float
) -> dict[str, float]:
    """Cells per mm² of epidermis at seams and elsewhere, and their ratio, which should be about 1.

    At seams is within ``reach_px`` of one of their rows or columns. The result is empty where one has no epidermis.
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
