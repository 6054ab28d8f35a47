"""Nuclei out of probabilities that come row by row, in memory that does not grow with the height of a slide.

Markers are connected pieces of what is inside of nuclei, numbered through while rows come: a piece that two bands of
rows share gets two numbers that are known to be one. Every marker then grows over the rest of its nucleus
(:mod:`dermatome.nuclei.flood`). There are no seams at which a nucleus could be cut or found twice, and how many rows
come together has no say in the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import NucleusClass, TernaryClass
from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.label_map import LabelMap, RowWriter
from dermatome.nuclei.network import SEMANTIC, TERNARY
from dermatome.nuclei.nucleus_table import NucleusSums

Rows = npt.NDArray[np.float32]

_INSIDE = TERNARY.start + TernaryClass.INSIDE
_NOTHING = TERNARY.start + TernaryClass.BACKGROUND
_KINDS = slice(SEMANTIC.start + NucleusClass.EPITHELIAL, SEMANTIC.stop)


@dataclass(frozen=True)
class InstanceSettings:
    """How a ternary map becomes nuclei.

    Attributes:
        inside_threshold: probability from which a pixel belongs to a marker.
        nucleus_threshold: probability of inside and boundary together from which a pixel belongs to a nucleus.
        opening_um: markers lose what is narrower than twice this: specks, and bridges between nuclei that touch.
        reach_um: how far a nucleus reaches beyond its marker; boundaries are drawn three pixels wide.
        min_area_um2: smaller nuclei are dropped.
    """

    inside_threshold: float = 0.5
    nucleus_threshold: float = 0.5
    opening_um: float = 0.25
    reach_um: float = 2.5
    min_area_um2: float = 6.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        if not (0 < self.inside_threshold < 1 and 0 < self.nucleus_threshold < 1):
            raise BadSetting("The thresholds of inside and nucleus must lie between 0 and 1.")
        if min(self.opening_um, self.min_area_um2) < 0 or not 0 < self.reach_um <= 50:
            raise BadSetting("Opening and smallest area must not be below 0, and the reach lie between 0 and 50 µm.")


class InstanceBuilder:
    """Takes the rows of a slide's probabilities from the top and makes its nuclei of them."""

    def __init__(self, size: Size, mpp: float, settings: InstanceSettings | None = None) -> None:
        """No rows yet, of a slide of ``size`` and ``mpp``."""
        self._settings, self._mpp, self._size = settings or InstanceSettings(), mpp, size
        self._opening_px = round(self._settings.opening_um / mpp)
        self._rings = max(1, round(self._settings.reach_um / mpp))
        self._labels = LabelMap(size)
        self._write = RowWriter(self._labels)
        self._sums = NucleusSums()
        self._parents: list[int] = [0]
        width = size.width_px
        # Rows from `_first` on that are still needed; of `_markers` fewer are known than of the others.
        self._first = 0
        self._foreground = np.zeros((0, width), bool)
        self._inside = np.zeros((0, width), np.uint8)
        self._kinds = np.zeros((0, width, _KINDS.stop - _KINDS.start), np.uint8)
        self._markers = np.zeros((0, width), np.int32)
        self._grown_px = 0

    def add(self, rows: Rows) -> None:
        """Takes the next (8, n, W) probabilities: of the semantic and of the ternary head."""
        settings = self._settings
        self._foreground = np.concatenate([self._foreground, rows[_NOTHING] <= 1 - settings.nucleus_threshold])
        self._inside = np.concatenate([self._inside, (rows[_INSIDE] >= settings.inside_threshold).view(np.uint8)])
        kinds = (rows[_KINDS] * np.float32(255) + np.float32(0.5)).astype(np.uint8)
        self._kinds = np.concatenate([self._kinds, kinds.transpose(1, 2, 0)])
        self._advance()

    def finish(self) -> tuple[LabelMap, pd.DataFrame]:
        """The nuclei, once all rows have come.

        Returns:
            The instance map, 1..N in reading order of first pixels, and the table
            (:data:`dermatome.nuclei.nucleus_table.NUCLEUS_COLUMNS`), a row for each.
        """
        known = self._first + len(self._inside)
        if known != self._size.height_px:
            raise ValueError(f"{known} of {self._size.height_px} rows came")
        roots = np.array(self._parents, np.int64)
        for number in range(1, len(roots)):  # a parent has the smaller number, so its own root is known
            roots[number] = roots[roots[number]]
        table, place = self._sums.finish(roots, self._settings.min_area_um2, self._mpp)
        for row, column in self._labels.places():
            if self._labels.deflated(row, column) is not None:
                box = self._labels.box(row, column)
                self._labels.put(row, column, place[self._labels.read(box)])
        return self._labels, table

    def _advance(self) -> None:
        """Numbers markers and grows them as far down as the rows that are known allow."""
        from dermatome.nuclei.flood import grow_markers

        known = self._first + len(self._inside)
        last = known == self._size.height_px
        self._number_markers(known if last else known - 2 * self._opening_px)
        marked = self._first + len(self._markers)
        until = marked if last else marked - self._rings
        if until <= self._grown_px:
            return
        start = max(self._first, self._grown_px - self._rings)
        window = slice(start - self._first, marked - self._first)
        markers, foreground = self._markers[window], self._foreground[window] | (self._markers[window] > 0)
        grown = grow_markers(np.ascontiguousarray(markers), np.ascontiguousarray(foreground), self._rings)
        rows = grown[self._grown_px - start : until - start]
        self._write(rows)
        held = slice(self._grown_px - self._first, until - self._first)
        self._sums.add(rows, self._kinds[held], self._grown_px)
        self._grown_px = until
        drop = max(0, min(until - self._rings, marked - 2 * self._opening_px - 1) - self._first)
        for name in ("_foreground", "_inside", "_kinds", "_markers"):
            setattr(self, name, getattr(self, name)[drop:])
        self._first += drop

    def _number_markers(self, until: int) -> None:
        """Opens the inside and numbers its pieces, down to row ``until``."""
        import cv2

        done = self._first + len(self._markers)
        if until <= done:
            return
        top = max(self._first, done - 2 * self._opening_px)
        opened = self._inside[top - self._first :]
        if self._opening_px:
            side = 2 * self._opening_px + 1
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
            opened = cv2.morphologyEx(opened, cv2.MORPH_OPEN, disc)
        opened = np.ascontiguousarray(opened[done - top : until - top])
        count, pieces = cv2.connectedComponents(opened, connectivity=4, ltype=cv2.CV_32S)
        offset = len(self._parents) - 1
        self._parents.extend(range(offset + 1, offset + count))
        numbered = np.where(pieces > 0, pieces + offset, 0).astype(np.int32)
        if len(self._markers):
            above, below = self._markers[-1], numbered[0]
            touching = (above > 0) & (below > 0)
            for one, other in np.unique(np.stack([above[touching], below[touching]], axis=1), axis=0).tolist():
                self._join(one, other)
        self._markers = np.concatenate([self._markers, numbered])

    def _join(self, one: int, other: int) -> None:
        first, second = self._root(one), self._root(other)
        self._parents[max(first, second)] = min(first, second)

    def _root(self, number: int) -> int:
        while self._parents[number] != number:
            self._parents[number] = self._parents[self._parents[number]]
            number = self._parents[number]
        return number
