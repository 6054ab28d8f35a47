"""Epidermal layers: how far from the dermis each pixel of epidermis lies, and how much DAB is found there.

Layer 1 is the basal layer. A pixel at distance ``d`` from the dermis is in layer ``ceil(d / thickness)``, so layer
``k`` holds distances above ``(k - 1) * thickness`` up to and including ``k * thickness``, and the farthest pixel is
always in the last layer. The distance is the straight line to the nearest pixel of dermis, between pixel centres; an
island of epidermis inside the dermis is measured from the dermis around it. A piece of epidermis that has no dermis
within ``max_gap_um`` (a detached fragment) has no basal side that could be known: it is in no layer, and its area is
reported.
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
from dermatome.skin.layers.tables import (
    RELATIVE_BINS,
    CellDepths,
    EpidermalZone,
    StainSums,
    bins_of,
    layer_table,
    profile_table,
    relative_table,
    zone_table,
    zones_of,
)
from dermatome.storage.record import Scalar

if TYPE_CHECKING:
    from dermatome.classes import RgbImage
    from dermatome.slides.slide import Slide

MAX_LAYERS = 65_535
"""What a uint16 layer map can hold."""


class LayerOutcome(StrEnum):
    """How measuring the layers of one slide ended; all of these are results, none is an error."""

    MEASURED = "measured"
    NO_EPIDERMIS = "no_epidermis"
    NO_DERMIS = "no_dermis"
    NO_CELLS = "no_cells"


@dataclass(frozen=True)
class LayersResult:
    """The layers of one slide.

    Attributes:
        outcome: how it ended; every table is empty and every number None unless it is ``measured``. Stains are null
            and there is no pattern if the slide's colours are not stains.
        message: the outcome in a sentence.
        layer_map: (H, W) uint16, 0 outside the layers, 1 = basal layer.
        shown: the part of the slide with the layers; where there are none, with its tissue, or else all of it.
        layers: one row for each layer, 1 upwards without gaps: ``layer``, ``distance_from_um`` (excluded),
            ``distance_to_um``, ``area_px``, ``area_um2``, ``cells``, ``mean_dab_od``, ``mean_h_od`` (log10 optical
            density), ``dab_h_ratio`` (null where there is next to no hematoxylin), ``positive_share`` (0–1, pixels at
            or above ``weak_od``), ``h_score`` (0–300).
        cell_layers: one row for each cell: ``cell_id``, ``layer`` (0: in none), ``distance_um`` and
            ``relative_depth``, means over its pixels (null: in none).
        profile: the fine profile: ``distance_um`` (middle of the step), ``area_px``, ``mean_dab_od``, ``mean_h_od``,
            ``dab_h_ratio``.
        relative: a row for each twentieth of the relative depth, which is 0 at the dermis and 1 at the upper edge of
            the living epidermis: ``relative_from``, ``relative_to``, ``area_px`` and the stains as in ``layers``.
        zones: a row for each :class:`~dermatome.skin.layers.tables.EpidermalZone`: ``zone``, ``area_px``, stains.
        background: the slide's background, whose light optical densities are relative to.
        vectors: the colours that stains are separated with.
        detached_um2: area of epidermis in no layer, as no dermis is near it.
        layer_px: thickness of a layer.
        layer_um: the same in µm.
        h_score: over all layers, 0–300.
        positive_share: over all layers, 0–1.
        pattern: where in the epidermis the DAB lies.
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
        """What a record says of the slide: number and thickness of the layers, scores, pattern, background."""
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
    """Cuts the epidermis into layers and measures the stains in each; block by block, in bounded memory.

    The H-score is taken over pixels, 1 × % weak + 2 × % moderate + 3 × % strong (Ram et al. 2021, "Pixelwise H-score",
    PLoS ONE 16(9): e0245638), as the cells found on hematoxylin are nuclei and DAB is often not in the nucleus.

    ``tissue_mask`` and ``instances`` are (H, W), arrays or the like; ``cells`` has a row for each cell with ``cell_id``
    and ``equivalent_diameter_um``. ``on_block`` is called before each block of a large slide, and may raise to end the
    measurement. ``on_pixels`` is called with each block, (h, w) bool of its pixels that are in layers, and for each of
    these, (N,), what it is counted into, by name: ``layer``, ``zone`` and ``relative_depth`` (numbers of rows, from 1;
    0 none) and ``cell`` (0 none).

    Raises:
        BadAnnotation: a mask or instance map of another size than the slide.
    """
    settings = settings or LayerSettings()
    for what, array in (("tissue mask", tissue_mask), ("instance map", instances)):
        if tuple(array.shape) != slide.pixels.shape[:2]:
            raise BadAnnotation(
                f"The {what} of {slide.name} has shape {array.shape} and its image {slide.pixels.shape[:2]}: make the "
                "mask from this image again."
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
    """Tells the staining pattern from the DAB profile.

    The basal compartment is layer 1. The suprabasal compartment is layer 3 and above; layer 2 belongs to neither, as
    cells of both reach into it where the border with the dermis is uneven (it counts as suprabasal where there is no
    layer 3). Each compartment's DAB is its mean over pixels. With ``pattern_min_dab_od`` and ``pattern_ratio`` of the
    settings: both below the minimum is **negative**; basal DAB at least ``pattern_ratio`` times the suprabasal is
    **basal**; the other way round **suprabasal**; anything else **whole**, also an epidermis of a single layer.

    None where there is no layer.
    """
    settings = settings or LayerSettings()
    if layers.empty:
        return None
    return pattern_of(*compartments(layers), settings)


def compartments(layers: pd.DataFrame) -> tuple[float, float]:
    """The mean DAB over the pixels of the basal and of the suprabasal compartment; see :func:`staining_pattern`."""
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
    """Hematoxylin and DAB of (N, 3) pixels: two (N,) float32, log10 optical density."""
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
