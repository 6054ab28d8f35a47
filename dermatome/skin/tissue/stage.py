"""The stage `epidermis_masks`: the tissue mask of a slide, from files to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from dermatome.classes import TissueClass
from dermatome.inference.backends import Runner
from dermatome.inference.compute import Compute, ComputeSettings
from dermatome.inference.int8 import int8_runner
from dermatome.labels.geojson import summarise_mask, tissue_features, write_geojson
from dermatome.labels.npz import save_mask
from dermatome.labels.ome_tiff import write_ome_tiff
from dermatome.labels.tiled import TiledArray
from dermatome.pipeline.stage_files import (
    SlideStage,
    load_slide,
    share_seconds,
    some_slides,
    timed,
    versions_of,
    write_figure,
)
from dermatome.registry.champion import Weights
from dermatome.registry.hold_out import SAMPLES_FOLDER
from dermatome.registry.model_kinds import TISSUE
from dermatome.skin.stage_files import MASK_FILE, MASK_TIFF
from dermatome.skin.tissue.evaluate import tissue_judge
from dermatome.skin.tissue.figures import tissue_figure
from dermatome.skin.tissue.networks import load_tissue
from dermatome.skin.tissue.segment import TissueNetwork, TissueOutcome, TissueResult, segment_slides
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.slides.slide import DECLARED_MPP, Slide
from dermatome.storage.layout import CHAMPION, DataRoot
from dermatome.storage.record import Check, StageResult, content_version

_TISSUE_COLOURS = {int(c): (c.label, c.colour) for c in TissueClass}


@dataclass(frozen=True)
class _Segmented:
    slide: Slide
    result: TissueResult
    seconds: dict[str, float]


@dataclass
class MaskStage(SlideStage[_Segmented]):
    """Computes `mask.npz`, `mask.ome.tif`, `tissue.geojson`, `figure.png` of each slide."""

    root: DataRoot
    weights: Weights
    compute_settings: ComputeSettings
    tissue: TissueSettings
    tiles_mpp: float = DECLARED_MPP
    """Microns per pixel of the tiles of the hold-out set."""
    figures: bool = True
    asset = "epidermis_masks"
    _network: TissueNetwork | None = field(default=None, init=False, repr=False)
    _compute: Compute | None = field(default=None, init=False, repr=False)

    def inputs(self, key: str) -> dict[str, str]:
        """The data versions of image and champion."""
        return {**versions_of(self.root, key, "slide_images"), "tissue_champion": self.weights.data_version}

    def open(self, check: Callable[[], None]) -> None:
        """Puts the network on the device."""
        super().open(check)
        self._compute = self.compute_settings.choose()
        network = load_tissue(self.weights, self._compute, self.tissue)
        self._network = self._as_int8(network) if self._compute.int8 else network

    def compute(self, loaded: Sequence[tuple[Slide, dict[str, float]]]) -> list[_Segmented]:
        """Segments the slides together; seconds are divided among them by tiles."""
        assert self._network is not None
        slides = [slide for slide, _ in loaded]
        results = segment_slides(slides, self._network, self.tissue, lambda _: self.check())
        shares = share_seconds([result.seconds for result in results], [result.tiles for result in results])
        return [
            _Segmented(slide, result, seconds | {"segment": sum(share.values())} | share)
            for (slide, seconds), result, share in zip(loaded, results, shares, strict=True)
        ]

    def save(self, key: str, found: _Segmented, folder: Path) -> StageResult:
        """Writes the mask in every format."""
        assert self._network is not None
        assert self._compute is not None
        one, seconds = (found.slide, found.result), dict(found.seconds)
        return write_tissue(folder, *one, self._network, self._compute, seconds, self.weights.name, figure=self.figures)

    def _as_int8(self, network: TissueNetwork) -> TissueNetwork:
        """The network in int8 if it gives the same tissue on available slides and on the hold-out set."""

        def show(runner: Runner, key: str) -> None:
            segment_slides([load_slide(self.root, key)], replace(network, first=runner, fine=runner), self.tissue)

        def ready(runner: Runner, views: int) -> Runner:
            folder = self.root.int8(network.weights.sha256, f"{views}-views")
            slides = [partial(show, key=key) for key in some_slides(self.root, "slide_images")]
            return int8_runner(runner, folder, slides, judge)

        hold_out = self.root.folder(TISSUE.hold_out, CHAMPION) / SAMPLES_FOLDER
        judge = tissue_judge(network.weights.card, sorted(hold_out.glob("*/")), self.tiles_mpp)
        first = ready(network.first, 1)
        fine = first if network.fine is network.first else ready(network.fine, self.tissue.views)
        return replace(network, first=first, fine=fine)


def write_tissue(
    folder: Path,
    slide: Slide,
    result: TissueResult,
    network: TissueNetwork,
    compute: Compute,
    seconds: dict[str, float],
    weights: str,
    stem: str = "",
    *,
    figure: bool = True,
) -> StageResult:
    """Writes a tissue mask in every format.

    Args:
        folder: folder of the files.
        slide: the image.
        result: its tissue.
        network: network that segmented it.
        compute: device and precision that the network ran with.
        seconds: wall time of earlier phases, s, to which those of writing are added.
        weights: name of the weights, for the record.
        stem: start of the names of the files; without it, they are named as in the data root.
        figure: whether the figure is drawn.
    """
    with timed(seconds, "write"):
        mask = TiledArray(slide.size, np.uint8)
        for _, band in result.bands():
            mask.append(band)
        summary = summarise_mask(mask)
        save_mask(folder / (f"{stem}.npz" if stem else MASK_FILE), mask, result.crop)
        tiff = folder / (f"{stem}.ome.tif" if stem else MASK_TIFF)
        write_ome_tiff(tiff, mask, slide.mpp, _TISSUE_COLOURS, name=slide.name, warning=result.warning)
        features = tissue_features(summary, mpp=slide.mpp, slide=slide.name)
        write_geojson(folder / f"{stem or 'tissue'}.geojson", features, warning=result.warning)
    if figure:
        with timed(seconds, "figure"):
            write_figure(folder, tissue_figure(slide, result), stem)
    shares = summary.shares
    return StageResult(
        outcome=result.outcome.value,
        message=""
        if result.outcome is TissueOutcome.TISSUE
        else f"{slide.name} has no epidermis; cells and layers will say the same.",
        data_version=content_version([summary.digest]),
        values={
            "weights": weights,
            "weights_sha256": network.weights.sha256,
            "weights_licence": network.weights.card.licence,
            "synthetic": bool(result.warning),
            "device": compute.device_name,
            "precision": network.fine.precision,
            "backend": result.backend,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            "crop_top_px": result.crop.top_px,
            "crop_left_px": result.crop.left_px,
            "crop_bottom_px": result.crop.bottom_px,
            "crop_right_px": result.crop.right_px,
            "mean_confidence": round(result.mean_confidence, 4),
            "tiles": result.tiles,
            **{f"{name}_share": share for name, share in shares.items()},
            "epidermis_um2": shares["epidermis"] * slide.size.area_px * slide.mpp**2,
        },
        seconds=seconds,
        checks=(*_checks(shares), result.skin_check()),
    )


def _checks(shares: Mapping[str, float]) -> tuple[Check, ...]:
    tissue, epidermis = 1 - shares["background"], shares["epidermis"]
    return (
        Check(
            "tissue_fraction",
            passed=0.02 <= tissue <= 0.98,
            description=f"{tissue:.1%} of the slide is tissue (expected 2 % to 98 %).",
            values={"tissue_share": tissue},
        ),
        Check(
            "epidermis_plausible",
            passed=0.001 <= epidermis <= 0.9,
            description=f"{epidermis:.2%} of the slide is epidermis (expected 0.1 % to 90 %).",
            values={"epidermis_share": epidermis},
        ),
    )
