"""Builds nuclei from probabilities that arrive row by row, in memory that does not grow with the height of a slide.

There are two kinds of markers. Sure ones are connected pieces of pixels that are inside nuclei with high probability;
bridges between touching nuclei rarely reach it. Faint nuclei have no such pieces: their markers are pieces of likely
inside pixels that no sure marker reaches. Then every marker grows over the rest of its nucleus (:func:`grow_markers`).

Pieces are numbered while rows arrive: a piece in two bands of rows gets two numbers, which are recorded as one piece.
No seam can cut or double a nucleus, and the result does not depend on how many rows arrive together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import BoolMap, Floats, Instances, NucleusClass, TernaryClass
from dermatome.geometry import Box, Size
from dermatome.imaging.compiled import compiled
from dermatome.inference.canvas import most_probable
from dermatome.labels.pieces import Pieces
from dermatome.labels.tiled import TiledArray
from dermatome.nuclei.maps.network import SEMANTIC, TERNARY
from dermatome.nuclei.maps.settings import InstanceSettings
from dermatome.nuclei.maps.table import NucleusSums

AnyRows = npt.NDArray[Any]

_INSIDE = TERNARY.start + TernaryClass.INSIDE
_NOTHING = TERNARY.start + TernaryClass.BACKGROUND
_LIKELY = -1
_KINDS = slice(SEMANTIC.start + NucleusClass.EPITHELIAL, SEMANTIC.stop)


class InstanceBuilder:
    """Takes the rows of a slide's probabilities from the top and builds its nuclei."""

    def __init__(self, size: Size, mpp: float, settings: InstanceSettings | None = None) -> None:
        self._settings, self._mpp, self._size = settings or InstanceSettings(), mpp, size
        rings = max(1, round(self._settings.reach_um / mpp))
        sure_px, other_px = (round(um / mpp) for um in (self._settings.sure_opening_um, self._settings.opening_um))
        self._open_sure = LocalWork(_opening(sure_px), 2 * sure_px)
        self._sure = Pieces(size, connectivity=4)
        self._reach = LocalWork(_reaching(rings), rings)
        self._open_others = LocalWork(_opening(other_px), 2 * other_px)
        self._others = Pieces(size, connectivity=4, parents=self._sure.parents)
        self._grow = LocalWork(_growing(rings), rings)
        self._likely, self._reached, self._foreground, self._kinds = (RowQueue() for _ in range(4))
        self._labels = TiledArray(size)
        self._sums = NucleusSums()
        self._known_px = self._sure_px = self._others_px = self._done_px = 0

    def add(self, rows: Floats) -> None:
        """Adds the next (8, n, W) float32 probabilities, of the semantic and the ternary head."""
        settings = self._settings
        self._known_px += rows.shape[1]
        last = self._known_px == self._size.height_px
        inside = rows[_INSIDE]
        self._likely.put(inside >= settings.inside_threshold)
        self._foreground.put(rows[_NOTHING] <= 1 - settings.nucleus_threshold)
        likely = (rows[_KINDS] * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        self._kinds.put(np.stack([most_probable(rows[SEMANTIC]), *likely], axis=-1))

        sure = _numbered(self._sure, self._open_sure.add(inside >= settings.sure_threshold, last=last), self._sure_px)
        self._sure_px += len(sure)
        reached = self._reach.add(sure, self._likely.take(len(sure)), last=last)
        self._reached.put(reached)
        others = _numbered(self._others, self._open_others.add(reached == _LIKELY, last=last), self._others_px)
        self._others_px += len(others)
        markers = np.where(others > 0, others, self._reached.take(len(others)).clip(0))
        nuclei = self._grow.add(markers, self._foreground.take(len(markers)), last=last)
        self._labels.append(nuclei)
        self._sums.add(nuclei, self._kinds.take(len(nuclei)), self._done_px)
        self._done_px += len(nuclei)

    def finish(self) -> tuple[TiledArray, pd.DataFrame]:
        """Returns the nuclei after all rows were added.

        Returns:
            The instance map, 1..N in reading order of first pixels, and the table, with a row for each nucleus
            (:data:`dermatome.nuclei.maps.table.NUCLEUS_COLUMNS`).
        """
        if self._known_px != self._size.height_px:
            raise ValueError(f"{self._known_px} of {self._size.height_px} rows came")
        table, place = self._sums.finish(self._sure.roots(), self._settings.min_area_um2, self._mpp)
        self._labels.renumber(place)
        return self._labels, table


def _numbered(pieces: Pieces, rows: npt.NDArray[np.uint8], top: int) -> Instances:
    """(n, W) int32: the number of each pixel's piece, 0 outside."""
    import cv2

    if not len(rows):
        return np.zeros(rows.shape, np.int32)
    count, labels = cv2.connectedComponents(np.ascontiguousarray(rows), connectivity=4, ltype=cv2.CV_32S)
    offset = pieces.add(Box(top, 0, top + len(rows), rows.shape[1]), labels, count - 1)
    numbered: Instances = np.where(labels > 0, labels + offset, 0).astype(np.int32)
    return numbered


def _opening(radius_px: int) -> Callable[..., npt.NDArray[Any]]:
    import cv2

    side = 2 * radius_px + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))

    def opened(mask: BoolMap) -> npt.NDArray[Any]:
        plain = np.ascontiguousarray(mask).view(np.uint8)
        return cv2.morphologyEx(plain, cv2.MORPH_OPEN, disc) if radius_px and len(plain) else plain

    return opened


def _growing(rings: int) -> Callable[..., npt.NDArray[Any]]:
    def grown(markers: Instances, foreground: BoolMap) -> Instances:
        return grow_markers(np.ascontiguousarray(markers), np.ascontiguousarray(foreground | (markers > 0)), rings)

    return grown


def _reaching(rings: int) -> Callable[..., npt.NDArray[Any]]:
    grow = _growing(rings)

    def reached(markers: Instances, likely: BoolMap) -> Instances:
        grown = grow(markers, likely)
        grown[likely & (grown == 0)] = _LIKELY
        return grown

    return reached


class RowQueue:
    """Rows that wait until the rows of the same place in other arrays are computed."""

    def __init__(self) -> None:
        self._rows: AnyRows | None = None

    def put(self, rows: AnyRows) -> None:
        """Appends the next rows, (n, W, …)."""
        self._rows = rows if self._rows is None else np.concatenate([self._rows, rows])

    def take(self, count: int) -> AnyRows:
        """Removes and returns the first ``count`` rows."""
        assert self._rows is not None
        taken, self._rows = self._rows[:count], self._rows[count:]
        return taken


class LocalWork:
    """A row-wise computation whose result for a row depends only on rows within ``reach`` of it.

    Args:
        work: computes, from arrays with the same number of rows, an array with that number of rows.
        reach: number of rows above and below that a row depends on; there are none beyond the slide.
    """

    def __init__(self, work: Callable[..., AnyRows], reach: int) -> None:
        self._work, self._reach = work, reach
        self._held: tuple[AnyRows, ...] = ()
        self._above = 0  # number of held rows that are finished and only needed as neighbours

    def add(self, *rows: AnyRows, last: bool) -> AnyRows:
        """Adds rows and returns those that are finished; with ``last``, all of them."""
        pairs = zip(self._held, rows, strict=True)
        self._held = tuple(np.concatenate(pair) for pair in pairs) if self._held else rows
        known = len(self._held[0])
        until = max(self._above, known if last else known - self._reach)
        if until == self._above:
            return self._work(*(array[:0] for array in self._held))
        done = self._work(*self._held)[self._above : until]
        above = min(until, self._reach)
        self._held = tuple(array[until - above :] for array in self._held)
        self._above = above
        return done


def grow_markers(markers: Instances, foreground: BoolMap, rings: int) -> Instances:
    """Grows markers over the foreground: the watershed by markers (Meyer and Beucher, 1990) on a flat relief.

    Each pixel of the foreground gets the marker that reaches it first along the foreground. All markers grow at once,
    ring by ring, and if two meet in a pixel, a fixed order of directions decides. So a pixel depends only on pixels
    within ``rings``, and a part of a slide with a margin of that width gives the same result as the whole slide.

    Args:
        markers: (H, W) int32, 0 for none; markers lie in the foreground.
        foreground: (H, W) bool.
        rings: distance by which a marker grows, px; even rings also grow over corners, so the shape is an octagon.

    Returns:
        (H, W) int32: number of the marker that reached each pixel; 0 outside the foreground or beyond reach.
    """
    grown = markers.copy()
    rows, columns = np.nonzero(markers)
    _grow(grown, foreground, rows, columns, rings)
    return grown


@compiled
def _grow(grown: Any, foreground: Any, rows: Any, columns: Any, rings: int) -> None:
    height, width = grown.shape
    # Straight steps before corners: of several neighbours in the previous ring, the first in this order wins.
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
