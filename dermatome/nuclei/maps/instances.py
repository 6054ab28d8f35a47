"""Nuclei out of probabilities that come row by row, in memory that does not grow with the height of a slide.

Markers are of two kinds. Sure ones are connected pieces of what is surely inside of nuclei: bridges between nuclei that
touch are seldom that sure. Faint nuclei have no such pieces: what is only likely inside, and that no sure marker
reaches, gives their markers. Every marker then grows over the rest of its nucleus (:mod:`dermatome.nuclei.maps.flood`).

Pieces are numbered through while rows come: one that two bands of rows share gets two numbers that are known to be one.
There are no seams at which a nucleus could be cut or found twice, and how many rows come together has no say in the
result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import NucleusClass, TernaryClass
from dermatome.geometry import Size
from dermatome.inference.canvas import most_probable
from dermatome.labels.tiled import TiledArray
from dermatome.nuclei.maps.flood import grow_markers
from dermatome.nuclei.maps.network import SEMANTIC, TERNARY
from dermatome.nuclei.maps.rows import LocalWork, RowQueue
from dermatome.nuclei.maps.settings import InstanceSettings
from dermatome.nuclei.maps.table import NucleusSums

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

_INSIDE = TERNARY.start + TernaryClass.INSIDE
_NOTHING = TERNARY.start + TernaryClass.BACKGROUND
_LIKELY = -1
_KINDS = slice(SEMANTIC.start + NucleusClass.EPITHELIAL, SEMANTIC.stop)


class InstanceBuilder:
    """Takes the rows of a slide's probabilities from the top and makes its nuclei of them."""

    def __init__(self, size: Size, mpp: float, settings: InstanceSettings | None = None) -> None:
        """No rows yet, of a slide of ``size`` and ``mpp``."""
        self._settings, self._mpp, self._size = settings or InstanceSettings(), mpp, size
        rings = max(1, round(self._settings.reach_um / mpp))
        sure_px, other_px = (round(um / mpp) for um in (self._settings.sure_opening_um, self._settings.opening_um))
        self._parents: list[int] = [0]
        self._open_sure = LocalWork(_opening(sure_px), 2 * sure_px)
        self._number_sure = _Pieces(self._parents)
        self._reach = LocalWork(_reaching(rings), rings)
        self._open_others = LocalWork(_opening(other_px), 2 * other_px)
        self._number_others = _Pieces(self._parents)
        self._grow = LocalWork(_growing(rings), rings)
        self._likely, self._reached, self._foreground, self._kinds = (RowQueue() for _ in range(4))
        self._labels = TiledArray(size)
        self._sums = NucleusSums()
        self._known_px = self._done_px = 0

    def add(self, rows: Rows) -> None:
        """Takes the next (8, n, W) probabilities: of the semantic and of the ternary head."""
        settings = self._settings
        self._known_px += rows.shape[1]
        last = self._known_px == self._size.height_px
        inside = rows[_INSIDE]
        self._likely.put(inside >= settings.inside_threshold)
        self._foreground.put(rows[_NOTHING] <= 1 - settings.nucleus_threshold)
        likely = (rows[_KINDS] * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        self._kinds.put(np.stack([most_probable(rows[SEMANTIC]), *likely], axis=-1))

        sure = self._number_sure(self._open_sure.add(inside >= settings.sure_threshold, last=last))
        reached = self._reach.add(sure, self._likely.take(len(sure)), last=last)
        self._reached.put(reached)
        others = self._number_others(self._open_others.add(reached == _LIKELY, last=last))
        markers = np.where(others > 0, others, self._reached.take(len(others)).clip(0))
        nuclei = self._grow.add(markers, self._foreground.take(len(markers)), last=last)
        self._labels.append(nuclei)
        self._sums.add(nuclei, self._kinds.take(len(nuclei)), self._done_px)
        self._done_px += len(nuclei)

    def finish(self) -> tuple[TiledArray, pd.DataFrame]:
        """The nuclei, once all rows have come.

        Returns:
            The instance map, 1..N in reading order of first pixels, and the table
            (:data:`dermatome.nuclei.maps.table.NUCLEUS_COLUMNS`), a row for each.
        """
        if self._known_px != self._size.height_px:
            raise ValueError(f"{self._known_px} of {self._size.height_px} rows came")
        roots = np.array(self._parents, np.int64)
        for number in range(1, len(roots)):  # a parent has the smaller number, so its own root is known
            roots[number] = roots[roots[number]]
        table, place = self._sums.finish(roots, self._settings.min_area_um2, self._mpp)
        self._labels.renumber(place)
        return self._labels, table


class _Pieces:
    """Numbers connected pieces of rows that come, and joins what two bands of them share."""

    def __init__(self, parents: list[int]) -> None:
        """Numbers go on from those of ``parents``, where each number's own parent stands, the smaller of the two."""
        self._parents = parents
        self._above: Labels | None = None

    def __call__(self, mask: npt.NDArray[np.uint8]) -> Labels:
        """(n, W) int32 number of each pixel's piece, 0 outside."""
        import cv2

        if not len(mask):
            return np.zeros(mask.shape, np.int32)
        count, pieces = cv2.connectedComponents(np.ascontiguousarray(mask), connectivity=4, ltype=cv2.CV_32S)
        offset = len(self._parents) - 1
        self._parents.extend(range(offset + 1, offset + count))
        numbered: Labels = np.where(pieces > 0, pieces + offset, 0).astype(np.int32)
        if self._above is not None:
            touching = (self._above > 0) & (numbered[0] > 0)
            pairs = np.stack([self._above[touching], numbered[0][touching]], axis=1)
            for one, other in np.unique(pairs, axis=0).tolist():
                first, second = self._root(one), self._root(other)
                self._parents[max(first, second)] = min(first, second)
        self._above = numbered[-1]
        return numbered

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number


def _opening(radius_px: int) -> Callable[..., npt.NDArray[Any]]:
    import cv2

    side = 2 * radius_px + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))

    def opened(mask: Mask) -> npt.NDArray[Any]:
        plain = np.ascontiguousarray(mask).view(np.uint8)
        return cv2.morphologyEx(plain, cv2.MORPH_OPEN, disc) if radius_px and len(plain) else plain

    return opened


def _growing(rings: int) -> Callable[..., npt.NDArray[Any]]:
    def grown(markers: Labels, foreground: Mask) -> Labels:
        return grow_markers(np.ascontiguousarray(markers), np.ascontiguousarray(foreground | (markers > 0)), rings)

    return grown


def _reaching(rings: int) -> Callable[..., npt.NDArray[Any]]:
    grow = _growing(rings)

    def reached(markers: Labels, likely: Mask) -> Labels:
        grown = grow(markers, likely)
        grown[likely & (grown == 0)] = _LIKELY
        return grown

    return reached
