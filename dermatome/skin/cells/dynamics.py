"""Cellpose's dynamics as compiled loops: flows are followed to their sinks, each sink becomes a cell, cells are
checked.

The steps are those of ``cellpose.dynamics.compute_masks`` (Stringer et al. 2021), about ten times faster, with changes
that make them suitable for one part of a slide at a time: a pixel's path is stored as a displacement, so it is
identical to the last bit wherever the part begins; the path has a maximum length; and where Cellpose leaves an order
undefined (sinks with equally many pixels), it is fixed. One more change: Cellpose drops small cells by their rank among
those that passed the flow check, not by their number, and so drops a few complete cells at random; here only small ones
are dropped. The loops release Python's global lock, so parts run in threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from dermatome.classes import Floats, Instances
from dermatome.imaging.compiled import compiled

if TYPE_CHECKING:
    from dermatome.skin.cells.flows import Dynamics

_SEED_COUNT = 10  # a cell begins at a place where more pixels than this end
_SEED_REACH_PX = 2  # and where no more of them end within this distance
_SINK_COUNT = 2  # a sink grows over neighbours at which more pixels than this end
_SINK_REACH_PX = 5  # up to this distance


def cells_of_window(flow: Floats, cell_logits: Floats, how: Dynamics) -> tuple[Instances, npt.NDArray[np.int64]]:
    """The cells of one part of a slide, in reading order of their first pixels.

    Args:
        flow: (2, H, W) float32, down and right, at most five times a unit vector.
        cell_logits: (H, W) float32 logit of being inside a cell.
        how: see :class:`~dermatome.skin.cells.flows.Dynamics`.

    Returns:
        (H, W) int32, 0 or the cell's number 1..N; and (N, 2) int64, row and column of each cell's sink, by which a cell
        is assigned to a part or to its neighbour.
    """
    inside = cell_logits > np.float32(how.cellprob_threshold)
    rows, columns = np.nonzero(inside)
    if rows.size == 0:
        return np.zeros(cell_logits.shape, np.int32), np.zeros((0, 2), np.int64)
    step = np.where(inside[..., None], np.moveaxis(flow, 0, -1), np.float32(0)) / np.float32(5)
    ends = _follow(np.ascontiguousarray(step), rows, columns, how.steps, np.float32(how.reach_px))
    count = np.zeros(inside.shape, np.int32)
    np.add.at(count.reshape(-1), ends[0] * inside.shape[1] + ends[1], 1)
    sinks = _sinks(count)
    owner = _grow_sinks(count, sinks)
    labels = np.zeros(inside.shape, np.int32)
    labels[rows, columns] = owner[ends[0], ends[1]]
    if how.flow_threshold > 0:
        _drop(labels, _flow_errors(labels, flow, _extents(labels, len(sinks))) > how.flow_threshold)
    _drop(labels, np.bincount(labels.ravel(), minlength=len(sinks) + 1)[1:] < how.min_area_px)
    labels, sinks = _in_reading_order(labels, sinks)
    _fill_holes(labels)
    _drop(labels, np.bincount(labels.ravel(), minlength=len(sinks) + 1)[1:] < how.min_area_px)
    return _in_reading_order(labels, sinks)


def _in_reading_order(labels: Instances, sinks: npt.NDArray[np.int64]) -> tuple[Instances, npt.NDArray[np.int64]]:
    """Numbers the remaining cells 1..N by their first pixels."""
    seen, first = np.unique(labels, return_index=True)
    order = seen[np.argsort(first)]
    order = order[order > 0]
    renumbered = np.zeros(len(sinks) + 1, np.int32)
    renumbered[order] = np.arange(1, order.size + 1)
    return renumbered[labels], sinks[order - 1]


def _drop(labels: Instances, dropped: npt.NDArray[np.bool_]) -> None:
    if dropped.any():
        kept = np.concatenate(([False], ~dropped))
        labels[~kept[labels]] = 0


@compiled
def _follow(step: Any, rows: Any, columns: Any, steps: int, reach: Any) -> Any:
    """End of each pixel's path after ``steps`` steps of Euler's method with bilinear interpolation; (2, N) int64.

    A path that stops moving, or alternates between two places, is not followed further, as its end is known.
    """
    height, width = step.shape[:2]
    ends = np.empty((2, rows.size), np.int64)
    one, zero = np.float32(1), np.float32(0)
    for k in range(rows.size):
        top, left = rows[k], columns[k]
        y, x, before_y, before_x = zero, zero, zero, zero
        least_y, most_y = max(-reach, np.float32(-top)), min(reach, np.float32(height - 1 - top))
        least_x, most_x = max(-reach, np.float32(-left)), min(reach, np.float32(width - 1 - left))
        for taken in range(steps):
            floor_y, floor_x = np.floor(y), np.floor(x)
            part_y, part_x = y - floor_y, x - floor_x
            row, column = top + np.int64(floor_y), left + np.int64(floor_x)
            below, beside = min(row + 1, height - 1), min(column + 1, width - 1)
            a, b = (one - part_y) * (one - part_x), (one - part_y) * part_x
            c, d = part_y * (one - part_x), part_y * part_x
            down = step[row, column, 0] * a + step[row, beside, 0] * b
            down += step[below, column, 0] * c + step[below, beside, 0] * d
            right = step[row, column, 1] * a + step[row, beside, 1] * b
            right += step[below, column, 1] * c + step[below, beside, 1] * d
            next_y = min(most_y, max(least_y, y + down))
            next_x = min(most_x, max(least_x, x + right))
            if next_y == y and next_x == x:
                break
            if taken > 0 and next_y == before_y and next_x == before_x:
                if (steps - taken) % 2 == 1:
                    y, x = next_y, next_x
                break
            before_y, before_x, y, x = y, x, next_y, next_x
        ends[0, k], ends[1, k] = top + np.int64(np.floor(y)), left + np.int64(np.floor(x))
    return ends


def _sinks(count: Instances) -> npt.NDArray[np.int64]:
    """(N, 2) row and column of the places where most pixels end, in ascending order, then in reading order."""
    highest = count == ndimage.maximum_filter(count, 2 * _SEED_REACH_PX + 1)
    sinks: npt.NDArray[np.int64] = np.argwhere(highest & (count > _SEED_COUNT))
    return sinks[np.argsort(count[sinks[:, 0], sinks[:, 1]], kind="stable")]


@compiled
def _grow_sinks(count: Any, sinks: Any) -> Any:
    """(H, W) int32: number, from 1, of each place's sink; if several claim it, the sink with most pixels."""
    height, width = count.shape
    side = 2 * _SINK_REACH_PX + 1
    owner = np.zeros(count.shape, np.int32)
    for k in range(len(sinks)):
        top, left = sinks[k, 0] - _SINK_REACH_PX, sinks[k, 1] - _SINK_REACH_PX
        reached = np.zeros((side, side), np.bool_)
        reached[_SINK_REACH_PX, _SINK_REACH_PX] = True
        for _ in range(_SINK_REACH_PX):
            grown = np.zeros((side, side), np.bool_)
            for y in range(side):
                for x in range(side):
                    if not (0 <= top + y < height and 0 <= left + x < width and count[top + y, left + x] > _SINK_COUNT):
                        continue
                    for v in range(max(0, y - 1), min(side, y + 2)):
                        for u in range(max(0, x - 1), min(side, x + 2)):
                            grown[y, x] |= reached[v, u]
            reached = grown
        for y in range(side):
            for x in range(side):
                if reached[y, x]:
                    owner[top + y, left + x] = k + 1
    return owner


def _extents(labels: Instances, count: int) -> npt.NDArray[np.int64]:
    """(N, 4) int64: top, left, bottom, right of each label; zeros for unused labels."""
    nowhere = (slice(0, 0), slice(0, 0))
    found = [rows_columns or nowhere for rows_columns in ndimage.find_objects(labels, max_label=count)]
    return np.array([(y.start, x.start, y.stop, x.stop) for y, x in found], np.int64).reshape(-1, 4)


@compiled
def _flow_errors(labels: Any, flow: Any, extents: Any) -> Any:
    """(N,) float64: mean squared difference of each cell's flows from the flows computed from its shape.

    These point up the heat that spreads in the shape from its middle (``cellpose.dynamics.masks_to_flows_cpu``).
    """
    errors = np.zeros(len(extents))
    for k in range(len(extents)):
        top, left, bottom, right = extents[k]
        if top >= bottom:
            continue
        tall, wide = bottom - top + 2, right - left + 2
        here = np.zeros((tall, wide), np.bool_)
        size, sum_y, sum_x = 0, 0, 0
        for y in range(1, tall - 1):
            for x in range(1, wide - 1):
                if labels[top + y - 1, left + x - 1] == k + 1:
                    here[y, x] = True
                    size, sum_y, sum_x = size + 1, sum_y + y, sum_x + x
        ys, xs = np.empty(size, np.int64), np.empty(size, np.int64)
        n = 0
        middle, nearest = 0, np.inf
        for y in range(1, tall - 1):
            for x in range(1, wide - 1):
                if here[y, x]:
                    ys[n], xs[n] = y, x
                    distance = (x - sum_x / size) ** 2 + (y - sum_y / size) ** 2
                    if distance < nearest:
                        middle, nearest = n, distance
                    n += 1
        heat, spread = np.zeros((tall, wide)), np.zeros((tall, wide))
        for _ in range(2 * (tall + wide)):
            heat[ys[middle], xs[middle]] += 1
            for n in range(size):
                y, x = ys[n], xs[n]
                total = heat[y - 1, x - 1] + heat[y - 1, x] + heat[y - 1, x + 1]
                total += heat[y, x - 1] + heat[y, x] + heat[y, x + 1]
                total += heat[y + 1, x - 1] + heat[y + 1, x] + heat[y + 1, x + 1]
                spread[y, x] = total / 9
            heat, spread = spread, heat
        error = 0.0
        for n in range(size):
            y, x = ys[n], xs[n]
            down, right_ = heat[y + 1, x] - heat[y - 1, x], heat[y, x + 1] - heat[y, x - 1]
            length = 1e-60 + np.sqrt(down**2 + right_**2)
            row, column = top + y - 1, left + x - 1
            error += (down / length - flow[0, row, column] / 5) ** 2
            error += (right_ / length - flow[1, row, column] / 5) ** 2
        errors[k] = error / size
    return errors


def _fill_holes(labels: Instances) -> None:
    """Fills the holes of each cell, including other cells in them, in the order of the cells' numbers."""
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        labels[box][ndimage.binary_fill_holes(labels[box] == number)] = number
