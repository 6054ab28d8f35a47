"""Class probabilities of a whole image at the network's resolution, one byte each, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.classes import ClassMap
from dermatome.geometry import Size
from dermatome.imaging.enlarging import LabelEnlarger
from dermatome.imaging.tiling import Probabilities

# Held in memory up to this size, beyond it in an unnamed file that vanishes when the canvas or the process ends.
_MEMORY_BYTES = 64 * 1024 * 1024
_BAND_ROWS = 128


class Canvas:
    """Probabilities (C, h, w), written and read in bands of rows, one byte each; 255 stands for 1.

    This precision moves a border between classes by a few hundredths of a pixel at most. Not thread-safe.
    """

    def __init__(self, classes: int, size: Size) -> None:
        """Creates an empty canvas; rows that were never written must not be read."""
        self.classes, self.size = classes, size
        self._row_bytes = classes * size.width_px
        # Closed, and so deleted, when the canvas is garbage-collected.
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=_MEMORY_BYTES)  # noqa: SIM115

    def write(self, top: int, left: int, rows: Probabilities) -> None:
        """Writes (C, n, w) float32 probabilities at row ``top`` and column ``left``."""
        count, width = rows.shape[1:]
        quantised = (rows * np.float32(255) + np.float32(0.5)).astype(np.uint8).transpose(1, 0, 2)
        if width < self.size.width_px:
            band = self.read(top, top + count)
            band[:, :, left : left + width] = quantised
            quantised = band
        self._put(top, quantised)

    def read(self, top: int, bottom: int) -> npt.NDArray[np.uint8]:
        """Rows ``top`` to ``bottom`` (exclusive) as (rows, C, w) uint8."""
        self._file.seek(top * self._row_bytes)
        data = bytearray(self._file.read((bottom - top) * self._row_bytes))
        return np.frombuffer(data, np.uint8).reshape(bottom - top, self.classes, self.size.width_px)

    def bands(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Yields the top row of each band and its (rows, C, w) uint8, from top to bottom."""
        for top in range(0, self.size.height_px, _BAND_ROWS):
            yield top, self.read(top, min(top + _BAND_ROWS, self.size.height_px))

    def labels(self) -> ClassMap:
        """(h, w) uint8: the most probable class of each pixel."""
        found = np.empty((self.size.height_px, self.size.width_px), np.uint8)
        for top, band in self.bands():
            found[top : top + len(band)] = most_probable(band.transpose(1, 0, 2))
        return found

    def correct(self, labels: ClassMap) -> None:
        """Makes ``labels`` (h, w) the most probable classes: where they are not, their probability becomes 1."""
        for top, band in self.bands():
            wanted = labels[top : top + len(band)]
            rows, columns = np.nonzero(most_probable(band.transpose(1, 0, 2)) != wanted)
            if rows.size:
                band[rows, :, columns] = 0
                band[rows, wanted[rows, columns], columns] = 255
                self._put(top, band)

    def labels_at(self, size: Size) -> Iterator[tuple[int, ClassMap]]:
        """Yields the most probable classes of the probabilities enlarged bilinearly to ``size``, in bands from the top.

        Yields:
            The top row of the band, and (rows, W) uint8.
        """
        enlarge = LabelEnlarger(self.size, size)
        for top in range(0, size.height_px, _BAND_ROWS):
            bottom = min(top + _BAND_ROWS, size.height_px)
            values = self.read(*enlarge.rows(top, bottom))
            yield top, enlarge(top, bottom, values, most_probable(values.transpose(1, 0, 2)))

    def _put(self, top: int, band: npt.NDArray[np.uint8]) -> None:
        self._file.seek(top * self._row_bytes)
        self._file.write(np.ascontiguousarray(band).data)


def most_probable(rows: npt.NDArray[Any]) -> ClassMap:
    """(n, w) uint8: the class with the highest of (C, n, w) values, the first if several are equal.

    It is many times faster than ``numpy.argmax``.
    """
    best = rows[0].copy()
    labels = np.zeros(best.shape, np.uint8)
    for number, values in enumerate(rows[1:], 1):
        higher = values > best
        np.copyto(labels, np.uint8(number), where=higher)
        np.copyto(best, values, where=higher)
    return labels
