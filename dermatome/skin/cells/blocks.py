"""Converts the flows of a region of any size to cells, block by block, without cutting or doubling cells at seams.

A cell is identified by its sink, the place at which the paths of its pixels end. A block is computed with a margin as
wide as paths may be long, so it contains complete cells, and keeps those whose sink lies inside it. Flows, and so
paths, are the same numbers in every block, so two neighbours agree on each cell and its block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import Floats
from dermatome.geometry import Box
from dermatome.skin.cells.flows import CellFlows, Dynamics

_WIDE_PX = 16_000


@dataclass(frozen=True)
class CellPixels:
    """Pixels of N cells: (P,) rows and columns on the slide in reading order, and (P,) cell index 0..N-1; int64."""

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    count: int

    @classmethod
    def owned(
        cls,
        labels: npt.NDArray[np.integer[Any]],
        y: npt.NDArray[Any],
        x: npt.NDArray[Any],
        window: Box,
        core: Box,
        wanted: npt.NDArray[np.bool_] | bool = True,
    ) -> CellPixels:
        """The ``wanted`` (N,) cells of a window whose places, (N,) rows and columns in the window, lie in its core."""
        mine = (y >= core.top_px - window.top_px) & (y < core.bottom_px - window.top_px) & wanted
        mine &= (x >= core.left_px - window.left_px) & (x < core.right_px - window.left_px)
        number = np.concatenate(([-1], np.where(mine, np.cumsum(mine) - 1, -1)))
        rows, columns = np.nonzero(labels)
        owners = number[labels[rows, columns]]
        own = owners >= 0
        return cls(rows[own] + window.top_px, columns[own] + window.left_px, owners[own], int(np.count_nonzero(mine)))


def cells_by_block(
    flows: CellFlows, region: Box, wanted: Callable[[Box], bool], how: Dynamics
) -> Iterator[tuple[CellPixels, int]]:
    """Runs the network and finds the cells of a region, in the blocks that ``wanted`` accepts, one row after another.

    Yields:
        The cells of a block, and the row of the slide above which no later block has a cell's pixel.
    """
    side = how.block_px or (1024 if region.size.width_px <= _WIDE_PX else 512)
    waiting: deque[tuple[Future[CellPixels], int]] = deque()
    with ThreadPoolExecutor(how.threads, thread_name_prefix="cells") as threads:
        top = region.top_px
        for ready in flows.run():
            while top < region.bottom_px and (
                ready >= min(region.bottom_px, top + side + how.halo_px) or ready == region.bottom_px
            ):
                # Rows above this are final after this row of blocks, as the next one has no pixels above it.
                bottom = min(top + side, region.bottom_px)
                for left in range(region.left_px, region.right_px, side):
                    core = Box(top, left, bottom, min(left + side, region.right_px))
                    window = core.padded(how.halo_px).common(region)
                    if not wanted(window):
                        continue
                    while len(waiting) > how.threads:
                        yield _landed(waiting)
                    flow, logits = flows.read(window)
                    waiting.append((threads.submit(_cells, flow, logits, window, core, how), top - how.halo_px))
                top = bottom
                flows.forget_above(top - how.halo_px)
        while waiting:
            yield _landed(waiting)


def _cells(flow: Floats, logits: Floats, window: Box, core: Box, how: Dynamics) -> CellPixels:
    """The cells whose sink lies in ``core``, from the flows in ``window``, which is the block with its margin."""
    from dermatome.skin.cells.dynamics import cells_of_window

    labels, sinks = cells_of_window(flow, logits, how)
    return CellPixels.owned(labels, sinks[:, 0], sinks[:, 1], window, core)


def _landed(waiting: deque[tuple[Future[CellPixels], int]]) -> tuple[CellPixels, int]:
    future, final_above = waiting.popleft()
    return future.result(), final_above
