"""Measures epidermal layers: the distance of each pixel of epidermis from the dermis, and the DAB in each layer.

Layer 1 is the basal layer. A pixel at distance ``d`` from the dermis is in layer ``ceil(d / thickness)``, so layer
``k`` contains distances above ``(k - 1) * thickness`` up to and including ``k * thickness``, and the farthest pixel is
always in the last layer. The distance is the straight line to the nearest pixel of dermis, between pixel centres; an
island of epidermis inside the dermis is measured from the dermis around it. A piece of epidermis without dermis within
``max_gap_um`` (a detached fragment) has no known basal side: it is in no layer, and its area is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dermatome.classes import BoolMap, Floats, LabelArray, StainingPattern
from dermatome.errors import BadAnnotation
from dermatome.geometry import Box
from dermatome.imaging.background import Background
from dermatome.imaging.ihc_stains import StainVectors, slide_stains
from dermatome.imaging.stains import DECADIC_OD_PER_UNIT, Stain, separate_stains
from dermatome.labels.tiled import TiledArray
from dermatome.skin.layers.depth import Depths, Survey, number_layers, relative_depth
from dermatome.skin.layers.settings import LayerSettings
from dermatome.storage.record import Scalar

if TYPE_CHECKING:
    from dermatome.classes import RgbImage
    from dermatome.slides.slide import Slide

RELATIVE_BINS = 20
"""Number of bins of the profile by relative depth."""


class EpidermalZone(StrEnum):
    """Zones of the living epidermis.

    Basal is layer 1. Suprabasal is everything above; its lower zone has a relative depth below 0.5, its upper 0.5 and
    more.
    """

    BASAL = "basal"
    LOWER_SUPRABASAL = "lower_suprabasal"
    UPPER_SUPRABASAL = "upper_suprabasal"


class StainSums:
    """Sums of DAB and hematoxylin over the pixels of each group 1, 2, … (layers, or bins of depth), block by block.

    If the slide has no stains (``stained`` is False), all values of stains are null.
    """

    def __init__(self, settings: LayerSettings, groups: int = 0, *, stained: bool = True) -> None:
        """Starts without pixels, with at least ``groups`` groups; the thresholds are those of ``settings``."""
        self._settings, self._stained = settings, stained
        self._sums = np.zeros((6, groups))  # pixels, H, DAB, pixels of at least weak, moderate and strong DAB

    def add(self, group: npt.NDArray[np.uint16], h: Floats, dab: Floats) -> None:
        """Adds pixels.

        Args:
            group: (N,) uint16, group of each pixel, from 1; pixels of group 0 are left out.
            h: (N,) float32, hematoxylin of each pixel, log10 optical density.
            dab: (N,) float32, DAB of each pixel, log10 optical density.
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
        """The highest group so far."""
        return self._sums.shape[1]

    @property
    def h_score(self) -> float | None:
        """H-score over all pixels, 0–300; None if it is undefined."""
        return float(100 * (self._sums[3:].sum(axis=1) / self._sums[0].sum()).sum()) if self._stained else None

    @property
    def positive_share(self) -> float | None:
        """Share of stained pixels, 0–1; None if it is undefined."""
        return float(self._sums[3].sum() / self._sums[0].sum()) if self._stained else None

    def table(self, first: Mapping[str, npt.ArrayLike], *, scores: bool = True) -> pd.DataFrame:
        """A row for each group: the columns ``first``, area, mean DAB, mean H, DAB/H and, with ``scores``, positive
        share and H-score; null if it has no pixels.
        """
        area = self._sums[0]
        mean_h, mean_dab, weak, moderate, strong = _divide(self._sums[1:], area, (area > 0) & self._stained)
        ratio = _divide(mean_dab, mean_h, np.nan_to_num(mean_h) >= self._settings.min_h_od)
        columns = {"mean_dab_od": mean_dab, "mean_h_od": mean_h, "dab_h_ratio": ratio}
        if scores:
            columns |= {"positive_share": weak, "h_score": 100 * (weak + moderate + strong)}
        # Converts NaN to null, as nullable columns distinguish them.
        nullable = {name: pd.array(values, dtype="Float64") for name, values in columns.items()}
        return pd.DataFrame({**first, "area_px": area.astype(np.int64), **nullable})


class CellDepths:
    """Sums over the pixels of each cell that are in a layer, and their distances, block by block."""

    def __init__(self, cells: pd.DataFrame) -> None:
        """Starts without pixels; ``cells`` has a row for each cell, with ``cell_id``."""
        self.ids = cells["cell_id"].to_numpy(np.int64) if len(cells) else np.empty(0, np.int64)
        # Number of pixels, distance, number of pixels with a relative depth, relative depth.
        self._sums = np.zeros((4, int(self.ids.max(initial=0)) + 1))

    def add(self, instances: npt.NDArray[np.int32], distance_px: Floats, relative: Floats) -> None:
        """Adds pixels that are in a layer.

        Args:
            instances: (N,) int32, cell of each pixel, 0 for none.
            distance_px: (N,) float32, distance from the dermis, px.
            relative: (N,) float32, relative depth, 0–1; NaN if unknown.
        """
        count = max(self._sums.shape[1], int(instances.max(initial=0)) + 1)
        before = np.pad(self._sums, ((0, 0), (0, count - self._sums.shape[1])))
        weights = (None, distance_px, np.isfinite(relative), np.nan_to_num(relative))
        self._sums = before + np.stack([np.bincount(instances, weights=each, minlength=count) for each in weights])

    def table(self, thickness_px: float, last: int, mpp: float) -> pd.DataFrame:
        """The layer of each cell, at most ``last``: the layer at the mean distance of its pixels in layers."""
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
    """One row for each layer from 1 to the last, also without pixels; ``cell_layers`` is from :class:`CellDepths`."""
    count = sums.groups
    number = np.arange(1, count + 1)
    from_um, to_um = ((number - before) * thickness_px * mpp for before in (1, 0))
    table = sums.table({"layer": number.astype(np.int32), "distance_from_um": from_um, "distance_to_um": to_um})
    table.insert(4, "area_um2", table["area_px"].to_numpy(float) * mpp**2)
    table.insert(5, "cells", np.bincount(cell_layers["layer"].to_numpy(int), minlength=count + 1)[1:].astype(np.int32))
    return table


def profile_table(sums: StainSums, step_um: float) -> pd.DataFrame:
    """One row for each step of the depth of ``step_um``."""
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
    """(N,) zone of each pixel, from 1 in the order of :class:`EpidermalZone`; 0 if it has no relative depth."""
    zone = np.where(relative < 0.5, 2, np.where(relative >= 0.5, 3, 0))
    zone[layer == 1] = 1
    return np.asarray(zone, dtype=np.uint16)


def bins_of(relative: Floats) -> npt.NDArray[np.uint16]:
    """(N,) bin of each relative depth, 1 to :data:`RELATIVE_BINS`; 0 for NaN."""
    number = np.clip(np.floor(relative * RELATIVE_BINS) + 1, 1, RELATIVE_BINS)
    return np.asarray(np.nan_to_num(number, nan=0), dtype=np.uint16)


MAX_LAYERS = 65_535
"""Largest number of layers in a uint16 layer map."""


class LayerOutcome(StrEnum):
    """The outcome of measuring the layers of one slide; all of them are results, not errors."""

    MEASURED = "measured"
    NO_EPIDERMIS = "no_epidermis"
    NO_DERMIS = "no_dermis"
    NO_CELLS = "no_cells"


@dataclass(frozen=True)
class LayersResult:
    """The layers of one slide.

    Attributes:
        outcome: the outcome; tables are empty and numbers None unless it is ``measured``. Stains are null and there is
            no pattern if the slide's colours are not stains.
        message: the outcome in a sentence.
        layer_map: (H, W) uint16, 0 outside the layers, 1 = basal layer.
        shown: the part of the slide with the layers; without layers that with tissue, without tissue the whole slide.
        layers: one row for each layer, from 1 without gaps: ``layer``, ``distance_from_um`` (exclusive),
            ``distance_to_um``, ``area_px``, ``area_um2``, ``cells``, ``mean_dab_od``, ``mean_h_od`` (log10 optical
            density), ``dab_h_ratio`` (null if there is hardly any hematoxylin), ``positive_share`` (0–1, pixels at or
            above ``weak_od``), ``h_score`` (0–300).
        cell_layers: one row for each cell: ``cell_id``, ``layer`` (0: none), ``distance_um`` and ``relative_depth``,
            means over its pixels (null without a layer).
        profile: the fine profile: ``distance_um`` (middle of the step), ``area_px``, ``mean_dab_od``, ``mean_h_od``,
            ``dab_h_ratio``.
        relative: a row for each twentieth of the relative depth, which is 0 at the dermis and 1 at the upper edge of
            the living epidermis: ``relative_from``, ``relative_to``, ``area_px`` and the stains as in ``layers``.
        zones: a row for each :class:`~dermatome.skin.layers.measure.EpidermalZone`: ``zone``, ``area_px``, stains.
        background: the slide's background, whose light optical densities are relative to.
        vectors: stain vectors that stains are separated with.
        detached_um2: area of epidermis in no layer, as no dermis is near it, µm².
        layer_px: thickness of a layer, px.
        layer_um: thickness of a layer, µm.
        h_score: H-score over all layers, 0–300.
        positive_share: share of stained pixels over all layers, 0–1.
        pattern: staining pattern: where in the epidermis the DAB is.
    """

    outcome: LayerOutcome
    message: str
    layer_map: TiledArray
    shown: Box
    layers: pd.DataFrame
    cell_layers: pd.DataFrame
    profile: pd.DataFrame
    relative: pd.DataFrame
    zones: pd.DataFrame
    background: Background
    vectors: StainVectors
    detached_um2: float = 0.0
    layer_px: float | None = None
    layer_um: float | None = None
    h_score: float | None = None
    positive_share: float | None = None
    pattern: StainingPattern | None = None

    @property
    def values(self) -> dict[str, Scalar]:
        """The slide's values for a record: number and thickness of the layers, scores, pattern, background."""
        return {
            "layers": len(self.layers),
            "layer_um": self.layer_um,
            "h_score": self.h_score,
            "positive_share": self.positive_share,
            "pattern": self.pattern.value if self.pattern is not None else None,
            "detached_um2": self.detached_um2,
            **self.background.values,
            **self.vectors.values,
        }


def measure_layers(
    slide: Slide,
    tissue_mask: LabelArray,
    instances: LabelArray,
    cells: pd.DataFrame,
    settings: LayerSettings | None = None,
    on_block: Callable[[], object] = lambda: None,
    on_pixels: Callable[[Box, BoolMap, Mapping[str, npt.NDArray[Any]]], object] = lambda box, inside, groups: None,
) -> LayersResult:
    """Divides the epidermis into layers and measures the stains in each; block by block, in bounded memory.

    The H-score is computed over pixels, 1 × % weak + 2 × % moderate + 3 × % strong (Ram et al. 2021, "Pixelwise
    H-score", PLoS ONE 16(9): e0245638), as the cells found on hematoxylin are nuclei and DAB is often outside of them.

    ``tissue_mask`` (uint8) and ``instances`` (int32) are (H, W), arrays or objects like them; ``cells`` has a row for
    each cell with ``cell_id`` and ``equivalent_diameter_um``. ``on_block`` is called before each block of a large
    slide, and may raise to stop. ``on_pixels`` is called with each block, with (h, w) bool of its pixels in layers, and
    with (N,) arrays that assign each of these pixels to its ``layer``, ``zone`` and ``relative_depth`` (row numbers
    from 1; 0 for none) and ``cell`` (0 for none).

    Raises:
        BadAnnotation: a mask or instance map has another size than the slide.
    """
    settings = settings or LayerSettings()
    for what, array in (("tissue mask", tissue_mask), ("instance map", instances)):
        if tuple(array.shape) != slide.pixels.shape[:2]:
            raise BadAnnotation(
                f"The {what} of {slide.name} has shape {array.shape} but its image {slide.pixels.shape[:2]}: compute "
                "the mask from this image again."
            )
    layer_um = settings.layer_um or _mean_diameter_um(cells)
    survey = Survey(tissue_mask)
    background, vectors = slide_stains(slide, settings.stain_vectors)
    nothing = partial(_nothing, slide, cells, background, vectors, survey.tissue or Box.whole(slide.size))
    if not survey.epidermis_px:
        return nothing(LayerOutcome.NO_EPIDERMIS, "no pixel of the tissue mask is epidermis")
    if not survey.dermis.any():
        return nothing(LayerOutcome.NO_DERMIS, "the tissue mask has epidermis and no dermis to measure from")
    if layer_um is None:
        return nothing(LayerOutcome.NO_CELLS, "no cells were found, so the layer thickness is unknown (set layer_um)")

    depths = Depths(tissue_mask, survey, settings.max_gap_um / slide.mpp, on_block)
    detached_um2 = float(survey.epidermis_px - depths.kept_px) * slide.mpp**2
    if not depths.kept_px:
        message = f"no epidermis lies within {settings.max_gap_um:g} µm of dermis"
        return nothing(LayerOutcome.NO_DERMIS, message, detached_um2)

    thickness_px = max(layer_um / slide.mpp, depths.farthest_px / MAX_LAYERS)
    layer_map = TiledArray(slide.size, np.uint16)
    groups, stained = (0, 0, RELATIVE_BINS, len(EpidermalZone)), not background.no_stains
    of_layers, of_steps, of_bins, of_zones = (StainSums(settings, count, stained=stained) for count in groups)
    of_cells, boxes = CellDepths(cells), []
    for block in depths.blocks():
        distance_px = block.distance_px[block.inside]
        layer_of = number_layers(distance_px, thickness_px)
        numbered = np.zeros(block.inside.shape, np.uint16)
        numbered[block.inside] = layer_of
        layer_map.write(block.box, numbered)
        layer_map.pack()
        h, dab = _stains(slide.pixels[block.box.slices][block.inside], background.i0, vectors)
        of_layers.add(layer_of, h, dab)
        of_steps.add(number_layers(distance_px, settings.profile_step_um / slide.mpp), h, dab)
        relative = relative_depth(tissue_mask, block, slide.size)
        bin_of, zone_of = bins_of(relative), zones_of(layer_of, relative)
        of_bins.add(bin_of, h, dab)
        of_zones.add(zone_of, h, dab)
        cell_of = instances[block.box.slices][block.inside]
        of_cells.add(cell_of, distance_px, relative)
        counted = {"layer": layer_of, "zone": zone_of, "relative_depth": bin_of, "cell": cell_of}
        on_pixels(block.box, block.inside, counted)
        boxes.append(block.box)
    cell_layers = of_cells.table(thickness_px, of_layers.groups, slide.mpp)
    layers = layer_table(of_layers, cell_layers, thickness_px, slide.mpp)
    gap = f"; {detached_um2:,.0f} µm² of epidermis without dermis near it are in no layer" if detached_um2 else ""
    return LayersResult(
        outcome=LayerOutcome.MEASURED,
        message=f"{len(layers)} layers of {thickness_px * slide.mpp:.1f} µm{gap}"
        + ("" if stained else f"; no stains, as {background.no_stains}"),
        layer_map=layer_map,
        shown=Box.covering(boxes),
        layers=layers,
        cell_layers=cell_layers,
        profile=profile_table(of_steps, settings.profile_step_um),
        relative=relative_table(of_bins),
        zones=zone_table(of_zones),
        background=background,
        vectors=vectors,
        detached_um2=detached_um2,
        layer_px=thickness_px,
        layer_um=thickness_px * slide.mpp,
        h_score=of_layers.h_score,
        positive_share=of_layers.positive_share,
        pattern=staining_pattern(layers, settings) if stained else None,
    )


def staining_pattern(layers: pd.DataFrame, settings: LayerSettings | None = None) -> StainingPattern | None:
    """Determines the staining pattern from the DAB profile.

    The basal compartment is layer 1. The suprabasal compartment is layer 3 and above; layer 2 belongs to neither, as
    cells of both extend into it where the border with the dermis is uneven (without a layer 3, it counts as
    suprabasal).
    The DAB of a compartment is its mean over pixels. With ``pattern_min_dab_od`` and ``pattern_ratio`` of the settings:
    both below the minimum is **negative**; basal DAB at least ``pattern_ratio`` times the suprabasal is **basal**; the
    reverse is **suprabasal**; anything else is **whole**, also an epidermis with a single layer.

    Returns None without layers.
    """
    settings = settings or LayerSettings()
    if layers.empty:
        return None
    return pattern_of(*compartments(layers), settings)


def compartments(layers: pd.DataFrame) -> tuple[float, float]:
    """Mean DAB over the pixels of the basal and of the suprabasal compartment; see :func:`staining_pattern`."""
    filled = layers[layers["area_px"] > 0]
    number = filled["layer"].to_numpy(int)
    dab = filled["mean_dab_od"].to_numpy(float)
    area = filled["area_px"].to_numpy(float)
    above = number >= min(3, max(2, number.max()))
    both = [float(np.average(dab[part], weights=area[part])) for part in (number == 1, above) if part.any()]
    return both[0], both[-1]


def pattern_of(basal: float, suprabasal: float, settings: LayerSettings) -> StainingPattern:
    """The staining pattern of two compartments' mean DAB; see :func:`staining_pattern`."""
    if max(basal, suprabasal) < settings.pattern_min_dab_od:
        return StainingPattern.NEGATIVE
    if basal >= settings.pattern_ratio * suprabasal:
        return StainingPattern.BASAL
    if suprabasal >= settings.pattern_ratio * basal:
        return StainingPattern.SUPRABASAL
    return StainingPattern.WHOLE


def _mean_diameter_um(cells: pd.DataFrame) -> float | None:
    diameters = cells["equivalent_diameter_um"].to_numpy(float, na_value=np.nan) if len(cells) else np.empty(0)
    diameters = diameters[np.isfinite(diameters) & (diameters > 0)]
    return float(diameters.mean()) if diameters.size else None


def _stains(pixels: RgbImage, i0: Sequence[float], vectors: StainVectors) -> tuple[Floats, Floats]:
    """Hematoxylin and DAB of (N, 3) uint8 pixels: two (N,) float32, log10 optical density."""
    stains = separate_stains(pixels[:, None], (Stain.HEMATOXYLIN, Stain.DAB), i0, vectors.matrix)[:, 0]
    stains *= np.float32(DECADIC_OD_PER_UNIT)
    return stains[:, 0], stains[:, 1]


def _nothing(
    slide: Slide,
    cells: pd.DataFrame,
    background: Background,
    vectors: StainVectors,
    shown: Box,
    outcome: LayerOutcome,
    message: str,
    detached_um2: float = 0.0,
) -> LayersResult:
    no_sums = StainSums(LayerSettings())
    no_cells = CellDepths(cells).table(1.0, 0, slide.mpp)
    return LayersResult(
        outcome, message, TiledArray(slide.size, np.uint16), shown, layer_table(no_sums, no_cells, 1.0, slide.mpp),
        no_cells, profile_table(no_sums, 1.0), relative_table(no_sums), zone_table(no_sums), background, vectors,
        detached_um2,
    )  # fmt: skip
