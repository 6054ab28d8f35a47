"""The table of nuclei: sums that are collected while rows of a slide arrive, and the columns computed from them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import NUCLEUS_LABELS, UNCLASSIFIED, Instances
from dermatome.labels.object_table import ObjectSums, empty_table

Numbers = npt.NDArray[np.float64]

NUCLEUS_COLUMNS = {
    "nucleus_id": "int32",
    "centroid_y_px": "float64",
    "centroid_x_px": "float64",
    "area_px": "int64",
    "area_um2": "float64",
    "equivalent_diameter_um": "float64",
    "major_axis_um": "float64",
    "minor_axis_um": "float64",
    "eccentricity": "float64",
    "orientation": "float64",
    "class": "str",
    "class_probability": "float64",
    **{f"probability_{label}": "float64" for label in NUCLEUS_LABELS[1:]},
}
"""Columns of the table. Axes are those of the ellipse with the same second moments, the orientation is the angle of its
major axis from the rows' direction towards the columns', -π/2 to π/2.

``class`` is that of most of the nucleus's pixels in the semantic map, without background. If several classes have
equally many, or all pixels are background, it is the one among them with the highest probability. A nucleus that is
background everywhere, and whose mean probability of the four classes together is below :data:`LEAST_EVIDENCE`, is
:data:`~dermatome.classes.UNCLASSIFIED`. ``probability_<class>`` are means over the nucleus, as shares of the four
classes' sum (0 if that is 0); ``class_probability`` is that of the nucleus's class, 0 without a class."""

LEAST_EVIDENCE = 0.1
_CERTAIN = 255
_SUMS = ("area", "y", "x", "yy", "xx", "yx", *NUCLEUS_LABELS[1:], *(f"{label}_px" for label in NUCLEUS_LABELS[1:]))


class NucleusSums:
    """Sums over the pixels of nuclei, by the temporary numbers of their markers."""

    def __init__(self) -> None:
        self._sums = ObjectSums()

    def add(self, labels: Instances, kinds: npt.NDArray[np.uint8], top: int) -> None:
        """Adds rows of the slide from the top.

        Args:
            labels: (n, W) int32, 0 or the nucleus's number.
            kinds: (n, W, 5) uint8, the class in the semantic map, and the probability of each class except background;
                255 stands for 1.
            top: row of the slide at which they begin.
        """
        rows, columns = np.nonzero(labels)
        numbers = labels[rows, columns]
        semantic, *likely = kinds[rows, columns].T
        rows = rows + top
        are = [semantic == kind for kind in range(1, len(NUCLEUS_LABELS))]
        self._sums.add(numbers, rows, columns, [rows * rows, columns * columns, rows * columns, *likely, *are])

    def finish(
        self, roots: npt.NDArray[np.int64], min_area_um2: float, mpp: float
    ) -> tuple[pd.DataFrame, npt.NDArray[np.int32]]:
        """Returns the table, and the row number in it, from 1, of each temporary number; 0 for dropped nuclei.

        Args:
            roots: root number of each temporary number.
            min_area_um2: smaller nuclei are dropped, µm².
            mpp: microns per pixel.
        """
        found, sums = self._sums.finish(roots)
        keep = sums[:, 0] * mpp**2 >= min_area_um2
        found, sums = found[keep], sums[keep]
        if not found.size:
            return empty_table(NUCLEUS_COLUMNS), np.zeros(len(roots), np.int32)
        place = np.zeros(len(roots), np.int32)
        place[found] = np.arange(1, len(found) + 1)
        return _columns(dict(zip(_SUMS, sums.T, strict=True)), mpp), place[roots]


def _columns(sums: dict[str, Numbers], mpp: float) -> pd.DataFrame:
    area = sums["area"]
    y, x = sums["y"] / area, sums["x"] / area
    # A pixel is a square, not a point: its own second moment is 1/12.
    down, along = sums["yy"] / area - y**2 + 1 / 12, sums["xx"] / area - x**2 + 1 / 12
    across = sums["yx"] / area - y * x
    middle, spread = (down + along) / 2, np.sqrt(((down - along) / 2) ** 2 + across**2)
    major, minor = 4 * np.sqrt(middle + spread), 4 * np.sqrt((middle - spread).clip(1 / 12))
    likely = np.stack([sums[label] for label in NUCLEUS_LABELS[1:]], axis=1)
    pixels = np.stack([sums[f"{label}_px"] for label in NUCLEUS_LABELS[1:]], axis=1)
    total = likely.sum(axis=1, keepdims=True)
    shares = np.divide(likely, total, out=np.zeros_like(likely), where=total > 0)
    # Pixel counts are integers, so half a share only decides between equal counts.
    best = (pixels + shares / 2).argmax(axis=1)
    known = pixels.any(axis=1) | (total[:, 0] >= LEAST_EVIDENCE * _CERTAIN * area)
    table = pd.DataFrame(
        {
            "nucleus_id": np.arange(1, len(area) + 1),
            "centroid_y_px": y,
            "centroid_x_px": x,
            "area_px": area,
            "area_um2": area * mpp**2,
            "equivalent_diameter_um": np.sqrt(4 * area / np.pi) * mpp,
            "major_axis_um": major * mpp,
            "minor_axis_um": minor * mpp,
            "eccentricity": np.sqrt((1 - (minor / major) ** 2).clip(0)),
            "orientation": 0.5 * np.arctan2(2 * across, along - down),
            "class": np.where(known, np.array(NUCLEUS_LABELS[1:])[best], UNCLASSIFIED),
            "class_probability": np.where(known, shares[np.arange(len(best)), best], 0.0),
            **{f"probability_{label}": shares[:, kind] for kind, label in enumerate(NUCLEUS_LABELS[1:])},
        }
    )
    return table.astype(NUCLEUS_COLUMNS)
