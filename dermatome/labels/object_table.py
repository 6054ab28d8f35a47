"""Sums over the pixels of objects that are added part by part, for tables of cells and nuclei."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]


def empty_table(columns: Mapping[str, str]) -> pd.DataFrame:
    """A table without rows, with the given columns and types."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns.items()})


class ObjectSums:
    """Area, coordinates and other values of objects, summed over their pixels."""

    def __init__(self) -> None:
        """Starts without pixels."""
        self._numbers: list[Ints] = [np.zeros(0, np.int64)]
        self._sums: list[npt.NDArray[np.float64]] = []
        self._firsts: list[Ints] = [np.zeros((0, 2), np.int64)]

    def add(self, numbers: npt.NDArray[Any], rows: Ints, columns: Ints, values: Sequence[npt.NDArray[Any]]) -> None:
        """Adds pixels in reading order.

        Args:
            numbers: (P,) integers, object of each pixel.
            rows: (P,) row of each pixel on the slide.
            columns: (P,) column of each pixel on the slide.
            values: further values of each pixel, (P,) each; the same number of them at every call.
        """
        if not rows.size:
            return
        names, first, owners = np.unique(numbers, return_index=True, return_inverse=True)
        sums = [np.bincount(owners, weight) for weight in (None, rows, columns, *values)]
        self._sums.append(np.stack(sums, axis=1).astype(np.float64))
        self._numbers.append(names.astype(np.int64))
        self._firsts.append(np.stack([rows[first], columns[first]], axis=1))

    def finish(self, roots: Ints | None = None) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Returns the objects in the reading order of their first pixels.

        Args:
            roots: for each number, the number of its object's root; by default, every number is its own object.

        Returns:
            (N,) int64 number of each object's root, and (N, 3 + values) float64 with its area and the sums of rows,
            columns and values.
        """
        numbers, firsts = np.concatenate(self._numbers), np.concatenate(self._firsts)
        if not numbers.size:
            return numbers, np.zeros((0, 3))
        found, owner = np.unique(numbers if roots is None else roots[numbers], return_inverse=True)
        sums = np.stack([np.bincount(owner, column, len(found)) for column in np.concatenate(self._sums).T], axis=1)
        # Of several assignments to an object, the last one stays, which is the first pixel in reading order.
        first = np.zeros((len(found), 2), np.int64)
        order = np.lexsort((firsts[:, 1], firsts[:, 0]))[::-1]
        first[owner[order]] = firsts[order]
        order = np.lexsort((first[:, 1], first[:, 0]))
        return found[order], sums[order]
