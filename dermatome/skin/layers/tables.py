"""The tables of epidermal layers: stains and cells in each layer, the fine profile, the layer of each cell."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import Floats
from dermatome.skin.layers.depth import number_layers
from dermatome.skin.layers.settings import LayerSettings

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
    """DAB and hematoxylin of the pixels of each group 1, 2, … (layers, or steps of depth), added up block by block.

    If the slide has no stains (``stained`` is False), all about them is null.
    """

    def __init__(self, settings: LayerSettings, groups: int = 0, *, stained: bool = True) -> None:
        """Starts without pixels, with at least ``groups`` groups; the thresholds are those of ``settings``."""
        self._settings, self._stained = settings, stained
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
    def h_score(self) -> float | None:
        """Of all pixels, 0–300."""
        return float(100 * (self._sums[3:].sum(axis=1) / self._sums[0].sum()).sum()) if self._stained else None

    @property
    def positive_share(self) -> float | None:
        """Of all pixels, 0–1."""
        return float(self._sums[3].sum() / self._sums[0].sum()) if self._stained else None

    def table(self, first: Mapping[str, npt.ArrayLike], *, scores: bool = True) -> pd.DataFrame:
        """A row for each group: the columns ``first``, area, mean DAB, mean H, DAB/H, and perhaps positive share and
        H-score; null where it has no pixel.
        """
        area = self._sums[0]
        mean_h, mean_dab, weak, moderate, strong = _divide(self._sums[1:], area, (area > 0) & self._stained)
        ratio = _divide(mean_dab, mean_h, np.nan_to_num(mean_h) >= self._settings.min_h_od)
        columns = {"mean_dab_od": mean_dab, "mean_h_od": mean_h, "dab_h_ratio": ratio}
        if scores:
            columns |= {"positive_share": weak, "h_score": 100 * (weak + moderate + strong)}
        # An array of NaN becomes nulls here: nullable columns know no NaN.
        nullable = {name: pd.array(values, dtype="Float64") for name, values in columns.items()}
        return pd.DataFrame({**first, "area_px": area.astype(np.int64), **nullable})


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
        area, total, measured, depth = self._sums[:, self.ids]
        found = area > 0
        mean_px = _divide(total, area, found)
        layer = np.zeros(self.ids.size, np.int32)
        layer[found] = np.minimum(number_layers(mean_px[found].astype(np.float32), thickness_px), last)
        relative = _divide(depth, measured, measured > 0)
        return pd.DataFrame(
            {
                "cell_id": self.ids.astype(np.int32),
                "layer": layer,
                "distance_um": pd.array(mean_px * mpp, dtype="Float64"),
                "relative_depth": pd.array(relative, dtype="Float64"),
            }
        )


def layer_table(sums: StainSums, cell_layers: pd.DataFrame, thickness_px: float, mpp: float) -> pd.DataFrame:
    """One row for each layer 1 to the last, also for those without a pixel; ``cell_layers`` is :class:`CellDepths`'."""
    count = sums.groups
    number = np.arange(1, count + 1)
    from_um, to_um = ((number - before) * thickness_px * mpp for before in (1, 0))
    table = sums.table({"layer": number.astype(np.int32), "distance_from_um": from_um, "distance_to_um": to_um})
    table.insert(4, "area_um2", table["area_px"].to_numpy(float) * mpp**2)
    table.insert(5, "cells", np.bincount(cell_layers["layer"].to_numpy(int), minlength=count + 1)[1:].astype(np.int32))
    return table


def profile_table(sums: StainSums, step_um: float) -> pd.DataFrame:
    """One row for each step of the depth, ``step_um`` wide."""
    return sums.table({"distance_um": (np.arange(sums.groups) + 0.5) * step_um}, scores=False)


def relative_table(sums: StainSums) -> pd.DataFrame:
    """One row for each bin of relative depth, from the dermis upwards."""
    edges = np.linspace(0, 1, sums.groups + 1)
    return sums.table({"relative_from": edges[:-1], "relative_to": edges[1:]})


def zone_table(sums: StainSums) -> pd.DataFrame:
    """One row for each zone of :class:`EpidermalZone`."""
    return sums.table({"zone": pd.Series([zone.value for zone in EpidermalZone][: sums.groups], dtype="str")})


def _divide(part: npt.NDArray[Any], whole: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=where)


def zones_of(layer: npt.NDArray[np.uint16], relative: Floats) -> npt.NDArray[np.uint16]:
    """(N,) the zone of each pixel, from 1 in the order of :class:`EpidermalZone`; 0 if it has no relative depth."""
    zone = np.where(relative < 0.5, 2, np.where(relative >= 0.5, 3, 0))
    zone[layer == 1] = 1
    return np.asarray(zone, dtype=np.uint16)


def bins_of(relative: Floats) -> npt.NDArray[np.uint16]:
    """(N,) the bin of each relative depth, 1 to :data:`RELATIVE_BINS`; 0 if it is NaN."""
    number = np.clip(np.floor(relative * RELATIVE_BINS) + 1, 1, RELATIVE_BINS)
    return np.asarray(np.nan_to_num(number, nan=0), dtype=np.uint16)
