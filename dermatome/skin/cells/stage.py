"""The stage `cell_masks`: finds every cell in the epidermis of a slide, from files to files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.classes import LabelArray
from dermatome.inference.backends import Runner
from dermatome.inference.compute import ComputeSettings
from dermatome.inference.int8 import int8_runner
from dermatome.labels.geojson import object_features, write_geojson
from dermatome.labels.npz import save_instances
from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.pipeline.stage_files import some_slides, synthetic_warning, timed, versions_of, write_figure, write_rows
from dermatome.registry.champion import Weights
from dermatome.skin.cells.figures import cells_figure
from dermatome.skin.cells.network import CellNetwork
from dermatome.skin.cells.networks import load_cells
from dermatome.skin.cells.scores import same_cells
from dermatome.skin.cells.segment import CellsOutcome, CellsResult, segment_cells
from dermatome.skin.cells.settings import CellSettings
from dermatome.skin.stage_files import SkinInput, SkinStage
from dermatome.slides.slide import Slide
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Check, StageResult, content_version

if TYPE_CHECKING:
    from dermatome.inference.segmenter import Segmenter

# Nuclei in interfollicular epidermis have a density of roughly 3,000 to 12,000 per mm²; wider, as cuts may be oblique.
_CELLS_PER_MM2 = (500.0, 25_000.0)
"""Bounds of the plausible nucleus density in epidermis."""


@dataclass
class CellsStage(SkinStage[CellsResult]):
    """Computes `cells.npz`, `cells.parquet`, `cells.ome.tif`, `cells.geojson`, `figure.png` of each slide."""

    root: DataRoot
    weights: Weights
    compute_settings: ComputeSettings
    cells: CellSettings
    figures: bool = True
    asset = "cell_masks"
    phase = "segment"
    _network: CellNetwork | Segmenter | None = field(default=None, init=False, repr=False)

    def inputs(self, key: str) -> dict[str, str]:
        """The data versions of image, mask and network."""
        made = versions_of(self.root, key, "slide_images", "epidermis_masks")
        return made | {"cell_champion": self.weights.data_version, "weights_sha256": self.weights.sha256}

    def open(self, check: Callable[[], None]) -> None:
        """Puts the network on the device."""
        super().open(check)
        compute = self.compute_settings.choose()
        network = load_cells(self.weights, compute, self.cells.segmenter)
        self._network = self._as_int8(network) if compute.int8 and isinstance(network, CellNetwork) else network

    def result(self, skin: SkinInput) -> CellsResult:
        """Finds the cells."""
        assert self._network is not None
        return segment_cells(skin.slide, skin.mask, self._network, self.cells, progress=lambda _: self.check())

    def save(self, key: str, found: tuple[SkinInput, CellsResult], folder: Path) -> StageResult:
        """Writes the cells in every format."""
        assert self._network is not None
        skin, made = found[0], found[0].mask_record.values
        warning = synthetic_warning(made)
        seconds = dict(skin.seconds)
        written = write_cells(
            folder, skin.slide, skin.mask, found[1], self._network, seconds, warning, figure=self.figures
        )
        written.values["mask_weights_sha256"] = str(made["weights_sha256"])
        return written

    def _as_int8(self, network: CellNetwork) -> CellNetwork:
        """The network in int8 if it finds the same cells on available slides."""

        def show(runner: Runner, key: str) -> None:
            one = self.load(key)
            segment_cells(one.slide, one.mask, replace(network, runner=runner), self.cells)

        slides = [partial(show, key=key) for key in some_slides(self.root, "epidermis_masks")]
        folder, judge = self.root.int8(network.sha256, "cells"), same_cells(network.diameter_px, self.cells)
        return replace(network, runner=int8_runner(network.runner, folder, slides, judge))


def write_cells(
    folder: Path,
    slide: Slide,
    mask: LabelArray,
    result: CellsResult,
    network: CellNetwork | Segmenter,
    seconds: dict[str, float],
    mask_warning: str,
    stem: str = "",
    *,
    figure: bool = True,
) -> StageResult:
    """Writes the cells of a slide in every format.

    To ``seconds``, the wall time of earlier phases, those of writing are added. ``mask_warning`` is what the mask says
    of the network that computed it. Without ``stem``, files are named as in the data root.
    Without ``figure``, none is drawn.
    """
    name, instances = stem or "cells", result.instances
    warning = network.warning or mask_warning
    with timed(seconds, "write"):
        save_instances(folder / f"{name}.npz", instances)
        write_ome_tiff(folder / f"{name}.ome.tif", instances, slide.mpp, name=slide.name, warning=warning)
        outlines = object_features(instances, result.table, slide=slide.name)
        write_geojson(folder / f"{name}.geojson", outlines, warning=warning)
        write_rows(folder / f"{name}.parquet", slide.name, result.table, warning=warning)
    if figure:
        with timed(seconds, "figure"):
            write_figure(folder, cells_figure(slide, mask, result), stem)
    epidermis_um2 = result.epidermis_px * slide.mpp**2
    density = len(result.table) / (epidermis_um2 / 1e6) if epidermis_um2 else None
    outcome = result.outcome.value
    return StageResult(
        outcome=outcome,
        message="" if result.outcome is CellsOutcome.CELLS else f"{slide.name}: {outcome.replace('_', ' ')}.",
        data_version=content_version(instances.content()),
        values={
            "weights": network.name,
            "weights_sha256": network.sha256,
            "weights_licence": network.licence,
            "synthetic": bool(warning),
            "device": network.device_name,
            "precision": network.precision,
            "backend": network.backend,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            "cells": len(result.table),
            "cells_per_mm2": density,
            "diameter_px": result.diameter_px,
            "diameter_source": result.diameter_source,
            **result.background.values,
            **result.vectors.values,
        },
        seconds=seconds | {f"segment_{name}": value for name, value in result.seconds.items()},
        checks=(_density_check(density), _seam_check(result.seam_density)),
    )


def _density_check(density: float | None) -> Check:
    low, high = _CELLS_PER_MM2
    text = "No epidermis to find cells in."
    if density is not None:
        text = f"{density:,.0f} cells per mm² of epidermis (expected {low:,.0f} to {high:,.0f})."
    return Check("cell_density", density is not None and low <= density <= high, text, {"cells_per_mm2": density})


def _seam_check(seams: dict[str, Any]) -> Check:
    ratio, text = seams.get("ratio"), "No tile seams crossed tissue."
    if ratio is not None:
        text = f"Cells at tile seams are {ratio:.2f} times as dense as elsewhere (expected 0.5 to 2)."
    return Check("seam_density", ratio is None or 0.5 <= ratio <= 2.0, text, dict(seams))
