"""Flows of a region of any size turned into cells block by block, so that no seam cuts a cell and none is found twice.

A cell is known by its sink, the place where the paths of its pixels end. A block looks beyond its borders as far as
paths may lead, so it sees whole cells, and keeps those whose sink lies inside it. Flows are the same numbers for every
block, and so are the paths, so two neighbours agree on each cell and its owner.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box
from dermatome.skin.cells.flows import CellFlows

_REACH_DIAMETERS = 3.0
_BEYOND_REACH_PX = 20  # sinks within 2 px compete, and grow 5 px towards each other
_WIDE_PX = 16_000


@dataclass(frozen=True)
class Dynamics:
    """How flows become cells.

    Attributes:
        diameter_px: of a cell.
        steps: along the flow.
        flow_threshold: cells whose flows differ more than this from those of their shape are dropped; 0 keeps all.
        cellprob_threshold: logit above which a pixel belongs to a cell.
        min_area_px: smaller cells are dropped; holes are filled.
        threads: blocks at once.
        block_px: side of the blocks; None chooses. It does not change the result.
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
        """How far a path may lead: three diameters, where those of a cell's own pixels take half a one."""
        return max(16, round(_REACH_DIAMETERS * self.diameter_px))

    @property
    def halo_px(self) -> int:
        """How far a block looks beyond its borders."""
        return self.reach_px + _BEYOND_REACH_PX


@dataclass(frozen=True)
class CellPixels:
    """The pixels of some cells, on the slide, in reading order.

    Attributes:
        rows: (P,) int64.
        columns: (P,) int64.
        owners: (P,) int64, 0..N-1.
        count: N.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    owners: npt.NDArray[np.int64]
    count: int


def cells_by_block(
    flows: CellFlows, region: Box, wanted: Callable[[Box], bool], how: Dynamics
) -> Iterator[tuple[CellPixels, int]]:
    """Runs the flows' network and finds the cells of a region, row of blocks by row of blocks.

    Args:
        flows: of the region.
        region: the part of the slide.
        wanted: whether a block has to be processed.
        how: the dynamics.

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
                # Rows above this are final once this row of blocks is done: the next looks no higher.
                bottom = min(top + side, region.bottom_px)
                for left in range(region.left_px, region.right_px, side):
                    core = Box(top, left, bottom, min(left + side, region.right_px))
                    window = core.padded(how.halo_px).common(region)
                    if not wanted(window):
                        continue
                    while len(waiting) > how.threads:
                        yield _landed(waiting)
                    flow, logits = flows.read(window)
                    waiting.append((threads.submit(cells_of_block, flow, logits, window, core, how), top - how.halo_px))
                top = bottom
                flows.forget_above(top - how.halo_px)
        while waiting:
            yield _landed(waiting)


def cells_of_block(
    flow: npt.NDArray[np.float32], logits: npt.NDArray[np.float32], window: Box, core: Box, how: Dynamics
) -> CellPixels:
    """The cells whose sink lies in ``core``, from the flows in ``window``, the block with what surrounds it."""
    from dermatome.skin.cells.dynamics import cells_of_window

    labels, sinks = cells_of_window(
        flow,
        logits,
        steps=how.steps,
        reach_px=how.reach_px,
        cellprob_threshold=how.cellprob_threshold,
        flow_threshold=how.flow_threshold,
        min_area_px=how.min_area_px,
    )
    y, x = sinks[:, 0] + window.top_px, sinks[:, 1] + window.left_px
    mine = (y >= core.top_px) & (y < core.bottom_px) & (x >= core.left_px) & (x < core.right_px)
    number = np.concatenate(([-1], np.where(mine, np.cumsum(mine) - 1, -1)))
    rows, columns = np.nonzero(labels)
    owners = number[labels[rows, columns]]
    own = owners >= 0
    return CellPixels(
        rows[own] + window.top_px, columns[own] + window.left_px, owners[own], int(np.count_nonzero(mine))
    )


def _landed(waiting: deque[tuple[Future[CellPixels], int]]) -> tuple[CellPixels, int]:
    future, final_above = waiting.popleft()
    return future.result(), final_above
