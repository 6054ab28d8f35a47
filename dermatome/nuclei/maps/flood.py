"""Markers grown over what belongs to nuclei, as compiled loops that let go of Python's lock.

It is the watershed by markers (Meyer and Beucher, 1990) on a flat relief: each pixel of the foreground goes to the
marker that reaches it first along the foreground. All markers grow at once and one ring at a time, and where two meet
in a pixel a fixed order of directions decides. So what becomes of a pixel depends on nothing further away than the
rings, and any part of a slide, seen with that much around it, is grown as the whole would be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]

_Loop = TypeVar("_Loop", bound=Callable[..., Any])


def _compiled(loop: _Loop) -> _Loop:
    """``loop`` compiled when it is first called; kept on disk for the next process."""
    made: _Loop = numba.njit(nogil=True, cache=True)(loop)
    return made


def grow_markers(markers: Labels, foreground: npt.NDArray[np.bool_], rings: int) -> Labels:
    """Each foreground pixel's marker.

    Args:
        markers: (H, W) int32, 0 where there is none; markers lie in the foreground.
        foreground: (H, W) bool.
        rings: how far a marker grows, px; even rings grow over corners too, so that they are octagons.

    Returns:
        (H, W) int32: the number of the marker that reached a pixel, 0 outside the foreground or beyond reach.
    """
    grown = markers.copy()
    rows, columns = np.nonzero(markers)
    _grow(grown, foreground, rows, columns, rings)
    return grown


@_compiled
def _grow(grown: Any, foreground: Any, rows: Any, columns: Any, rings: int) -> None:
    height, width = grown.shape
    # Straight steps before corners: of several neighbours a ring older, the first in this order has the pixel.
    down = np.array([-1, 0, 0, 1, -1, -1, 1, 1])
    along = np.array([0, -1, 1, 0, -1, 1, -1, 1])
    chosen = np.full(grown.shape, np.int8(127), np.int8)
    for ring in range(1, rings + 1):
        steps = 4 if ring % 2 else 8
        reached_rows, reached_columns = [np.int64(0) for _ in range(0)], [np.int64(0) for _ in range(0)]
        for k in range(rows.size):
            for step in range(steps):
                y, x = rows[k] + down[step], columns[k] + along[step]
                if not (0 <= y < height and 0 <= x < width) or not foreground[y, x] or grown[y, x] != 0:
                    continue
                if chosen[y, x] == 127:
                    reached_rows.append(y)
                    reached_columns.append(x)
                chosen[y, x] = min(chosen[y, x], np.int8(step))
        if len(reached_rows) == 0:
            break
        rows, columns = np.array(reached_rows), np.array(reached_columns)
        owners = np.empty(rows.size, np.int32)
        for k in range(rows.size):
            step = chosen[rows[k], columns[k]]
            owners[k] = grown[rows[k] - down[step], columns[k] - along[step]]
        for k in range(rows.size):
            grown[rows[k], columns[k]] = owners[k]
