"""Runs a Cellpose network over a region of any size, in overlapping tiles of one grid that are blended as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dermatome.classes import Floats
from dermatome.errors import BadSetting
from dermatome.geometry import Box
from dermatome.imaging.resampling import Scaling
from dermatome.labels.tiled import TiledArray
from dermatome.skin.cells.image import CellImage
from dermatome.skin.cells.network import TILE_PX, CellNetwork

Place = tuple[int, int]

_EMPTY_LOGIT = -20.0
_PAD_TO_PX = 16
_PATCH_PX = 256
_REACH_DIAMETERS = 3.0  # the paths of a cell's own pixels are about half a diameter long
_BEYOND_REACH_PX = 20  # sinks within 2 px compete, and grow by 5 px towards each other
MAX_SCALE = 10.0
"""Largest factor by which an image may be enlarged or shrunk for the network."""


@dataclass(frozen=True)
class Dynamics:
    """How flows are converted to cells.

    Attributes:
        diameter_px: diameter of a cell, px.
        steps: number of steps along the flow.
        flow_threshold: cells whose flows differ more than this from those of their shape are dropped; 0 keeps all.
        cellprob_threshold: logit above which a pixel belongs to a cell.
        min_area_px: smaller cells are dropped, before and after holes are filled, px.
        threads: number of blocks processed at once.
        block_px: side of the blocks, px; None chooses. It does not change the result.
    """

    diameter_px: float
    steps: int
    flow_threshold: float
    cellprob_threshold: float
    min_area_px: int
    threads: int = 1
    block_px: int | None = None

    @property
    def reach_px(self) -> int:
        """Maximum length of a path in each direction, px: a cell depends on little beyond this around its sink."""
        return max(16, round(_REACH_DIAMETERS * self.diameter_px))

    @property
    def halo_px(self) -> int:
        """Width of the margin around a block, px."""
        return self.reach_px + _BEYOND_REACH_PX


class CellFlows:
    """A network's output for a region, from top to bottom: :meth:`run` runs it, :meth:`read` returns finished rows.

    The region is scaled so that cells have the size that the network was trained on, and flows are scaled back, so
    dynamics run at full resolution (Cellpose's ``resample``). Tiles lie on one grid for the whole region and are
    blended with Cellpose's taper; tiles without a pixel near the epidermis are not run. Memory holds only the tiles
    between the rows that are still needed and those being run.

    Attributes:
        seams_px: rows, and columns, of the slide in the middle of the overlap of two tiles.
        tiles: number of tiles that were run.
        style_sum: (S,) float64, sum of the tiles' styles; None if none was run.
    """

    def __init__(
        self,
        network: CellNetwork,
        image: CellImage,
        region: Box,
        diameter_px: float,
        *,
        batch: int = 8,
        tile_overlap: float = 0.1,
        on_tile: Callable[[int, int], None] | None = None,
    ) -> None:
        """Places the grid over a region whose cells have the diameter ``diameter_px``.

        ``tile_overlap`` is a share of a tile, 0.05 to 0.5, with Cellpose's meaning (tiles are counted as if a side grew
        by twice that share). ``on_tile`` is called with the number of finished tiles and of all tiles.

        Raises:
            BadSetting: cells of this diameter would have to be scaled by more than 10.
        """
        scale = network.diameter_px / diameter_px if diameter_px > 0 else 0.0
        if not 1 / MAX_SCALE * (1 - 1e-9) <= scale <= MAX_SCALE * (1 + 1e-9):
            raise BadSetting(
                f"A cell diameter of {diameter_px:.1f} px cannot be scaled to the network's {network.diameter_px:.1f} "
                "px: check the diameter and the mpp."
            )
        self._network, self._image, self._region = network, image, region
        self._batch, self._on_tile = batch, on_tile
        full = (region.size.height_px, region.size.width_px)
        self._rows, self._columns = (Scaling(side, max(1, round(side * scale))) for side in full)
        self._starts = [_starts(axis.target_px, tile_overlap) for axis in (self._rows, self._columns)]
        self._blended = TiledArray(None, np.float32, tile_px=_PATCH_PX, channels=4)  # three outputs and their weight
        self.style_sum: npt.NDArray[np.float64] | None = None
        self.tiles = 0
        self.seams_px = [
            [(b + (a + TILE_PX - b) / 2) / scale + first for a, b in pairwise(at)]
            for at, first in zip(self._starts, (region.top_px, region.left_px), strict=True)
        ]

    def run(self) -> Iterator[int]:
        """Runs the network; yields the row of the slide up to which flows can be read, in ascending order."""
        places = [(y, x) for y in self._starts[0] for x in self._starts[1] if self._image.may_be_near(self._seen(y, x))]
        position = {place: number for number, place in enumerate(places)}
        taper = _taper()
        for chosen, (outputs, styles) in self._network.runner.stream(self._batches(places)):
            total = styles.sum(axis=0, dtype=np.float64)
            self.style_sum = total if self.style_sum is None else self.style_sum + total
            for output, (y, x) in zip(outputs, chosen, strict=True):
                box = Box(y, x, y + TILE_PX, x + TILE_PX)
                self._blended.add(box, np.concatenate([output * taper, taper[None]]))
            self.tiles += len(chosen)
            done = position[chosen[-1]] + 1
            if self._on_tile is not None:
                self._on_tile(done, len(places))
            if done < len(places):  # later tiles do not change the rows above the next one
                yield self._region.top_px + self._rows.known_until(places[done][0])
        yield self._region.bottom_px

    def read(self, box: Box) -> tuple[Floats, Floats]:
        """The flows in a box of the region: (2, h, w) float32 down and right, at most five times a unit vector, and
        (h, w) float32 logits, above 0 inside cells; where the network was not run, flows are 0 and logits very low.
        """
        rows = self._rows.taps(box.top_px - self._region.top_px, box.bottom_px - self._region.top_px)
        columns = self._columns.taps(box.left_px - self._region.left_px, box.right_px - self._region.left_px)
        held = np.asarray(self._blended.read(Box(rows.first, columns.first, rows.last, columns.last)), np.float32)
        weight = held[3]
        run = weight > 0
        values = np.divide(held[:3], weight, out=np.zeros_like(held[:3]), where=run)
        values[2][~run] = _EMPTY_LOGIT
        scaled = columns.apply(rows.apply(values, 1), 2)
        return scaled[:2], scaled[2]

    def forget_above(self, row_px: int) -> None:
        """Drops the data that :meth:`read` needs only for rows above ``row_px``."""
        row = min(max(row_px, self._region.top_px), self._region.bottom_px - 1) - self._region.top_px
        self._blended.forget_above(self._rows.taps(row, row + 1).first)

    def _batches(self, places: list[Place]) -> Iterable[tuple[list[Place], Floats]]:
        chosen: list[Place] = []
        stack = np.zeros((self._batch, 2, TILE_PX, TILE_PX), dtype=np.float32)
        for y, x in places:
            box = self._seen(y, x)
            self._image.forget_above(box.top_px)
            if not self._image.near(box).any():
                continue
            stack[len(chosen), 0] = self._tile(box, y, x)
            chosen.append((y, x))
            if len(chosen) == self._batch:
                yield chosen, stack
                chosen, stack = [], np.zeros_like(stack)
        if chosen:
            yield chosen, stack[: len(chosen)]

    def _seen(self, y: int, x: int) -> Box:
        """The pixels of the slide that a tile is computed from."""
        (top, bottom), (left, right) = self._rows.sources(y, y + TILE_PX), self._columns.sources(x, x + TILE_PX)
        first = self._region
        return Box(first.top_px + top, first.left_px + left, first.top_px + bottom, first.left_px + right)

    def _tile(self, box: Box, y: int, x: int) -> Floats:
        values = self._image.network_input(box)
        if self._rows.same and self._columns.same:
            tile = np.zeros((TILE_PX, TILE_PX), dtype=np.float32)
            top, left = max(0, -y), max(0, -x)
            tile[top : top + values.shape[0], left : left + values.shape[1]] = values
            return tile
        tall = self._rows.weights(y, y + TILE_PX) @ values
        return np.asarray(tall @ self._columns.weights(x, x + TILE_PX).T, dtype=np.float32)


def _starts(side_px: int, tile_overlap: float) -> list[int]:
    """Start positions of tiles along a scaled side, as ``cellpose.transforms`` pads the side and places tiles.

    It is padded with zeros: up to a multiple of 16 for the network's three halvings, half of them on each side, and by
    8 px more so that no cell touches the edge. A small side is padded to a full tile.
    """
    to_multiple = -side_px % _PAD_TO_PX
    padded_px = side_px + to_multiple + _PAD_TO_PX
    before_px = _PAD_TO_PX // 2 + to_multiple // 2
    overlap = min(0.5, max(0.05, tile_overlap))
    if padded_px <= TILE_PX:
        return [-before_px]
    count = int(np.ceil((1 + 2 * overlap) * padded_px / TILE_PX))
    return [int(start) - before_px for start in np.linspace(0, padded_px - TILE_PX, count)]


def _taper() -> Floats:
    from cellpose.transforms import _taper_mask

    return np.asarray(_taper_mask(ly=TILE_PX, lx=TILE_PX), dtype=np.float32)
