"""The tables of epidermal layers: stains and cells in each layer, the fine profile, the layer of each cell."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.classes import Floats
from dermatome.skin.layers.depth import number_layers
from dermatome.skin.layers.settings import LayerSettings

if TYPE_CHECKING:
    import pandas as pd

STAIN_COLUMNS = ("mean_dab_od", "mean_h_od", "dab_h_ratio", "positive_share", "h_score")
"""Columns that are null if the slide has no stains."""

RELATIVE_BINS = 20
"""Bins of the profile by relative depth."""


class EpidermalZone(StrEnum):
    """Zones of the living epidermis.

    Basal is layer 1. Suprabasal is all above; its lower zone has a relative depth below 0.5, its upper one 0.5 or more.
    """

    BASAL = "basal"
    LOWER_SUPRABASAL = "lower_suprabasal"
    UPPER_SUPRABASAL = "upper_suprabasal"


class StainSums:
    """DAB and hematoxylin of the pixels of each group 1, 2, … (layers, or steps of depth), added up block by block."""

    def __init__(self, settings: LayerSettings, groups: int = 0) -> None:
        """Starts without pixels, with at least ``groups`` groups; the thresholds are those of ``settings``."""
        self._settings = settings
        self._sums = np.zeros((6, groups))  # pixels, H, DAB, pixels of at least weak, moderate and strong DAB

    def add(self, group: npt.NDArray[np.uint16], h: Floats, dab: Floats) -> None:
        """Takes more pixels.

        Args:
            group: (N,) uint16, of each pixel, from 1; pixels of group 0 are left out.
            h: (N,) float32, its hematoxylin, log10 optical density.
            dab: (N,) float32, its DAB.
        """
        count = max(self._sums.shape[1], int(group.max(initial=0)))
        set_ = self._settings
        levels = (group[dab >= level] for level in (set_.weak_od, set_.moderate_od, set_.strong_od))
        sums = [
            np.bincount(group, minlength=count + 1),
            *(np.bincount(group, weights=od, minlength=count + 1) for od in (h, dab)),
            *(np.bincount(stained, minlength=count + 1) for stained in levels),
        ]
        before = np.pad(self._sums, ((0, 0), (0, count - self._sums.shape[1])))
        self._sums = before + np.stack(sums)[:, 1:]

    @property
    def groups(self) -> int:
        """The highest group seen."""
        return self._sums.shape[1]

    @property
    def area_px(self) -> npt.NDArray[np.float64]:
        """(groups,) pixels."""
        area: npt.NDArray[np.float64] = self._sums[0]
        return area

    @property
    def stained_shares(self) -> npt.NDArray[np.float64]:
        """(3, groups): the share of pixels of at least weak, moderate and strong DAB; NaN where there is no pixel."""
        return np.divide(
            self._sums[3:], self.area_px, out=np.full((3, self.groups), np.nan), where=self.area_px > 0
        )  # fmt: skip

    @property
    def h_score(self) -> float:
        """Of all pixels, 0–300."""
        return float(100 * (self._sums[3:].sum(axis=1) / self.area_px.sum()).sum())

    @property
    def positive_share(self) -> float:
        """Of all pixels, 0–1."""
        return float(self._sums[3].sum() / self.area_px.sum())

    def means(self) -> pd.DataFrame:
        """Area, mean DAB, mean H and DAB/H of each group; null where it has no pixel."""
        import pandas as pd

        area = self.area_px
        mean_h, mean_dab = (
            np.divide(total, area, out=np.full(area.size, np.nan), where=area > 0) for total in self._sums[1:3]
        )
        measurable = np.greater_equal(
            mean_h, self._settings.min_h_od, where=area > 0, out=np.zeros(area.size, bool)
        )  # fmt: skip
        ratio = np.divide(mean_dab, mean_h, out=np.full(area.size, np.nan), where=measurable)
        return pd.DataFrame(
            {
                "area_px": area.astype(np.int64),
                # An array of NaN becomes nulls here: nullable columns know no NaN.
                "mean_dab_od": pd.array(mean_dab, dtype="Float64"),
                "mean_h_od": pd.array(mean_h, dtype="Float64"),
                "dab_h_ratio": pd.array(ratio, dtype="Float64"),
            }
        )


class CellDepths:
    """The pixels of each cell that are in a layer, and their distances, added up block by block."""

    def __init__(self, cells: pd.DataFrame) -> None:
        """No pixel yet; ``cells`` has a row for each cell, with ``cell_id``."""
        self.ids = cells["cell_id"].to_numpy(np.int64) if len(cells) else np.empty(0, np.int64)
        # Pixels, distance, pixels with a relative depth, relative depth.
        self._sums = np.zeros((4, int(self.ids.max(initial=0)) + 1))

    def add(self, instances: npt.NDArray[np.int32], distance_px: Floats, relative: Floats) -> None:
        """Takes more pixels that are in a layer.

        Args:
            instances: (N,) the cell of each pixel, 0 none.
            distance_px: (N,) its distance from the dermis.
            relative: (N,) its relative depth, 0–1; NaN if it has none.
        """
        count = max(self._sums.shape[1], int(instances.max(initial=0)) + 1)
        before = np.pad(self._sums, ((0, 0), (0, count - self._sums.shape[1])))
        weights = (None, distance_px, np.isfinite(relative), np.nan_to_num(relative))
        self._sums = before + np.stack([np.bincount(instances, weights=each, minlength=count) for each in weights])

    def table(self, thickness_px: float, last: int, mpp: float) -> pd.DataFrame:
        """The layer of each cell, at most ``last``: that of the mean distance of those pixels."""
        import pandas as pd

        area, total, measured, depth = self._sums[:, self.ids]
        found = area > 0
        mean_px = np.divide(total, area, out=np.full(self.ids.size, np.nan), where=found)
        layer = np.zeros(self.ids.size, np.int32)
        layer[found] = np.minimum(number_layers(mean_px[found].astype(np.float32), thickness_px), last)
        relative = np.divide(depth, measured, out=np.full(self.ids.size, np.nan), where=measured > 0)
        return pd.DataFrame(
            {
                "cell_id": self.ids.astype(np.int32),
                "layer": layer,
                "distance_um": pd.array(mean_px * mpp, dtype="Float64"),
                "relative_depth": pd.array(relative, dtype="Float64"),
            }
        )


def layer_table(sums: StainSums, cell_layers: pd.DataFrame, thickness_px: float, mpp: float) -> pd.DataFrame:
    """One row for each layer 1 to the last, also for those without a pixel.

    Args:
        sums: of the layers.
        cell_layers: the table of :class:`CellDepths`.
        thickness_px: of a layer.
        mpp: microns per pixel.
    """
    table, count = sums.means(), sums.groups
    number = np.arange(1, count + 1)
    table.insert(0, "layer", number.astype(np.int32))
    table.insert(1, "distance_from_um", (number - 1) * thickness_px * mpp)
    table.insert(2, "distance_to_um", number * thickness_px * mpp)
    table.insert(4, "area_um2", sums.area_px * mpp**2)
    table.insert(5, "cells", np.bincount(cell_layers["layer"].to_numpy(int), minlength=count + 1)[1:].astype(np.int32))
    return _with_scores(table, sums)


def _with_scores(table: pd.DataFrame, sums: StainSums) -> pd.DataFrame:
    import pandas as pd

    shares = sums.stained_shares
    table["positive_share"] = pd.array(shares[0], dtype="Float64")
    table["h_score"] = pd.array(100 * (shares[0] + shares[1] + shares[2]), dtype="Float64")
    return table


def profile_table(sums: StainSums, step_um: float) -> pd.DataFrame:
    """One row for each step of the depth, ``step_um`` wide."""
    table = sums.means()
    table.insert(0, "distance_um", (np.arange(len(table)) + 0.5) * step_um)
    return table


def relative_table(sums: StainSums) -> pd.DataFrame:
    """One row for each bin of relative depth, from the dermis upwards."""
    table, edges = sums.means(), np.linspace(0, 1, sums.groups + 1)
    table.insert(0, "relative_from", edges[:-1])
    table.insert(1, "relative_to", edges[1:])
    return _with_scores(table, sums)


def zone_table(sums: StainSums) -> pd.DataFrame:
    """One row for each zone of :class:`EpidermalZone`."""
    import pandas as pd

    table = sums.means()
    table.insert(0, "zone", pd.Series([zone.value for zone in EpidermalZone][: sums.groups], dtype="str"))
    return _with_scores(table, sums)


def zones_of(layer: npt.NDArray[np.uint16], relative: Floats) -> npt.NDArray[np.uint16]:
    """(N,) the zone of each pixel, from 1 in the order of :class:`EpidermalZone`; 0 if it has no relative depth."""
    zone = np.where(relative < 0.5, 2, np.where(relative >= 0.5, 3, 0))
    zone[layer == 1] = 1
    return np.asarray(zone, dtype=np.uint16)


def bins_of(relative: Floats) -> npt.NDArray[np.uint16]:
    """(N,) the bin of each relative depth, 1 to :data:`RELATIVE_BINS`; 0 if it is NaN."""
    number = np.clip(np.floor(relative * RELATIVE_BINS) + 1, 1, RELATIVE_BINS)
    return np.asarray(np.nan_to_num(number, nan=0), dtype=np.uint16)
