"""The tables of epidermal layers: stains and cells in each layer, the fine profile, the layer of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.skin.depth import FloatMap, number_layers

if TYPE_CHECKING:
    import pandas as pd

    from dermatome.skin.layers import LayerSettings


def h_score(dab: FloatMap, settings: LayerSettings) -> float:
    """The H-score, 0–300, of the pixels whose DAB is given: log10 optical density, (N,)."""
    return float(100 * sum(np.mean(dab >= level) for level in _levels(settings)))


def _levels(settings: LayerSettings) -> tuple[float, float, float]:
    return settings.weak_od, settings.moderate_od, settings.strong_od


def layer_table(
    layer_of: npt.NDArray[np.uint16],
    h: FloatMap,
    dab: FloatMap,
    cell_layers: pd.DataFrame,
    thickness_px: float,
    mpp: float,
    settings: LayerSettings,
) -> pd.DataFrame:
    """One row for each layer 1 to the last, also for those without a pixel.

    Args:
        layer_of: (N,) uint16, the layer of each pixel.
        h: (N,) float32, its hematoxylin, log10 optical density.
        dab: (N,) float32, its DAB.
        cell_layers: the table of :func:`layers_of_cells`.
        thickness_px: of a layer.
        mpp: microns per pixel.
        settings: thresholds of the stains.
    """
    import pandas as pd

    table = _stain_means(layer_of, h, dab, settings)
    count = len(table)
    number = np.arange(1, count + 1)
    above = [np.bincount(layer_of[dab >= level], minlength=count + 1)[1:] for level in _levels(settings)]
    area = table["area_px"].to_numpy(float)
    shares = [np.divide(part, area, out=np.full(count, np.nan), where=area > 0) for part in above]
    table.insert(0, "layer", number.astype(np.int32))
    table.insert(1, "distance_from_um", (number - 1) * thickness_px * mpp)
    table.insert(2, "distance_to_um", number * thickness_px * mpp)
    table.insert(4, "area_um2", area * mpp**2)
    table.insert(5, "cells", np.bincount(cell_layers["layer"].to_numpy(int), minlength=count + 1)[1:].astype(np.int32))
    table["positive_share"] = pd.array(shares[0], dtype="Float64")
    table["h_score"] = pd.array(100 * (shares[0] + shares[1] + shares[2]), dtype="Float64")
    return table


def profile_table(step_of: npt.NDArray[np.uint16], h: FloatMap, dab: FloatMap, settings: LayerSettings) -> pd.DataFrame:
    """One row for each step of ``profile_step_um``; arguments as in :func:`layer_table`."""
    table = _stain_means(step_of, h, dab, settings)
    table.insert(0, "distance_um", (np.arange(len(table)) + 0.5) * settings.profile_step_um)
    return table


def _stain_means(group: npt.NDArray[np.uint16], h: FloatMap, dab: FloatMap, settings: LayerSettings) -> pd.DataFrame:
    """Area, mean DAB, mean H and DAB/H of the pixels of each group 1, 2, …; null where a group has none."""
    import pandas as pd

    area = np.bincount(group)[1:]
    mean_h, mean_dab = (
        np.divide(np.bincount(group, weights=od)[1:], area, out=np.full(area.size, np.nan), where=area > 0)
        for od in (h, dab)
    )
    measurable = np.greater_equal(mean_h, settings.min_h_od, where=area > 0, out=np.zeros(area.size, bool))
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


def layers_of_cells(
    cells: pd.DataFrame,
    instances: npt.NDArray[np.int32],
    distance_px: FloatMap,
    thickness_px: float,
    last: int,
    mpp: float,
) -> pd.DataFrame:
    """The layer of each cell: that of the mean distance of those of its pixels that are in a layer.

    Args:
        cells: a row for each cell, with ``cell_id``.
        instances: (N,) int32, the cell of each pixel that is in a layer, 0 none.
        distance_px: (N,) float32, its distance from the dermis.
        thickness_px: of a layer.
        last: the number of the last layer.
        mpp: microns per pixel.
    """
    import pandas as pd

    ids = cells["cell_id"].to_numpy(np.int64) if len(cells) else np.empty(0, np.int64)
    size = int(max(ids.max(initial=0), instances.max(initial=0))) + 1
    area = np.bincount(instances, minlength=size)[ids]
    total = np.bincount(instances, weights=distance_px, minlength=size)[ids]
    mean_px = np.divide(total, area, out=np.full(ids.size, np.nan), where=area > 0)
    found = area > 0
    layer = np.zeros(ids.size, np.int32)
    layer[found] = np.minimum(number_layers(mean_px[found].astype(np.float32), thickness_px), last)
    distance_um = pd.array(mean_px * mpp, dtype="Float64")
    return pd.DataFrame({"cell_id": ids.astype(np.int32), "layer": layer, "distance_um": distance_um})
