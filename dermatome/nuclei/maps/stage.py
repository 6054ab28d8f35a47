"""The stage `nucleus_maps`: semantic and ternary map, instances and table of a slide's nuclei, from files to files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from dermatome.classes import NUCLEUS_LABELS, UNCLASSIFIED
from dermatome.imaging.stain_normalisation import AS_IT_IS, StainFit
from dermatome.imaging.tissue_area import tissue_mm2
from dermatome.inference.compute import Compute, ComputeSettings
from dermatome.nuclei.maps.figures import maps_figure, outlined_overlay, ternary_overlay
from dermatome.nuclei.maps.files import NUCLEI_TABLE, OUTLINES_FILE, write_maps, write_outlines
from dermatome.nuclei.maps.networks import load_nuclei
from dermatome.nuclei.maps.segment import NucleiResult, NucleusNetwork, fitted_stain, segment_nuclei
from dermatome.nuclei.maps.settings import NucleusSettings
from dermatome.pipeline.stage_files import SlideStage, share_seconds, timed, versions_of, write_figure, write_rows
from dermatome.registry.champion import Weights
from dermatome.reports.figures import png_bytes
from dermatome.slides.slide import Slide
from dermatome.storage.files import write_atomic
from dermatome.storage.layout import DataRoot
from dermatome.storage.record import Check, StageResult, content_version

_NUCLEI_PER_MM2 = (100.0, 20_000.0)
"""Bounds of a plausible density, per mm²: fat and fibrous tissue have hundreds, lymph nodes more than ten thousand."""


@dataclass(frozen=True)
class _Found:
    slide: Slide
    fit: StainFit | None
    result: NucleiResult
    seconds: dict[str, float]


@dataclass
class NucleusStage(SlideStage[_Found]):
    """Computes the maps, `nuclei.parquet`, `nuclei.geojson`, overlays and `figure.png` of each slide."""

    root: DataRoot
    weights: Weights
    compute_settings: ComputeSettings
    nuclei: NucleusSettings
    opacity: float
    figures: bool = True
    asset = "nucleus_maps"
    slides = "nuclei_slides"
    _network: NucleusNetwork | None = field(default=None, init=False, repr=False)
    _compute: Compute | None = field(default=None, init=False, repr=False)

    def inputs(self, key: str) -> dict[str, str]:
        """The data versions of slide and network."""
        return {
            **versions_of(self.root, key, "nuclei_slides"),
            "nuclei_champion": self.weights.data_version,
            "weights_sha256": self.weights.sha256,
        }

    def open(self, check: Callable[[], None]) -> None:
        """Puts the network on the device."""
        super().open(check)
        self._compute = self.compute_settings.choose()
        self._network = load_nuclei(self.weights, self._compute, self.nuclei)

    def compute(self, loaded: Sequence[tuple[Slide, dict[str, float]]]) -> list[_Found]:
        """Finds the nuclei of the slides together; seconds are divided among them by tiles."""
        assert self._network is not None
        slides, fits = [slide for slide, _ in loaded], []
        for slide, seconds in loaded:
            with timed(seconds, "stain"):
                fits.append(fitted_stain(slide, self._network, self.nuclei))
        results = segment_nuclei(
            slides,
            self._network,
            self.nuclei,
            lambda _: self.check(),
            normalise=[None if fit is None else fit.normalise for fit in fits],
        )
        shares = share_seconds([result.seconds for result in results], [result.tiles for result in results])
        return [
            _Found(slide, fit, result, seconds | share)
            for (slide, seconds), fit, result, share in zip(loaded, fits, results, shares, strict=True)
        ]

    def save(self, key: str, found: _Found, folder: Path) -> StageResult:
        """Writes maps, table, outlines and pictures."""
        assert self._compute is not None
        assert self._network is not None
        one, seconds = (found.slide, found.result, found.fit), dict(found.seconds)
        name, opacity = self.weights.name, self.opacity
        return write_nuclei(folder, *one, self._network, self._compute, seconds, name, opacity, figures=self.figures)


def write_nuclei(
    folder: Path,
    slide: Slide,
    result: NucleiResult,
    fit: StainFit | None,
    network: NucleusNetwork,
    compute: Compute,
    seconds: dict[str, float],
    weights: str,
    opacity: float,
    stem: str = "",
    *,
    figures: bool = True,
) -> StageResult:
    """Writes the nuclei of a slide: maps, table, outlines and pictures.

    ``stem`` is the start of the names of the files; without it, they are named as in the data root. Times of writing
    are added to ``seconds``. Without ``figures``, neither the figure nor the overlays are drawn.
    """
    before = f"{stem}_" if stem else ""
    with timed(seconds, "write"):
        write_maps(folder, result, slide, before)
        write_outlines(folder / (f"{stem}.geojson" if stem else OUTLINES_FILE), result, slide)
        write_rows(
            folder / (f"{stem}.parquet" if stem else NUCLEI_TABLE), slide.name, result.table, warning=result.warning
        )
    if figures:
        with timed(seconds, "figure"):
            write_figure(folder, maps_figure(slide, result), stem)
            for kind, overlay in (("semantic", outlined_overlay), ("ternary", ternary_overlay)):
                write_atomic(folder / f"{before}{kind}.png", png_bytes(overlay(slide, result, opacity)))
    with timed(seconds, "tissue"):
        area = tissue_mm2(slide)
    counts = result.table["class"].value_counts()
    density = len(result.table) / area if area else None
    return StageResult(
        outcome="nuclei" if len(result.table) else "no_nuclei",
        message="" if len(result.table) else f"No nucleus was found on {slide.name}.",
        data_version=_version(slide, result, area),
        values={
            "weights": weights,
            "weights_sha256": network.weights.sha256,
            "weights_licence": network.weights.card.licence,
            "synthetic": bool(result.warning),
            "device": compute.device_name,
            "precision": network.runner.precision,
            "backend": result.backend,
            "height_px": slide.size.height_px,
            "width_px": slide.size.width_px,
            "mpp": slide.mpp,
            "mpp_source": slide.mpp_source.value,
            "stain": AS_IT_IS if fit is None else fit.outcome.value,
            "tiles": result.tiles,
            "nuclei": len(result.table),
            "tissue_mm2": area,
            "nuclei_per_mm2": density,
            **{label: int(counts.get(label, 0)) for label in (*NUCLEUS_LABELS[1:], UNCLASSIFIED)},
        },
        seconds=seconds,
        checks=(
            _density_check(density),
            Check("stain_fit", True, "Stain normalisation is off: colours are left as they are.")
            if fit is None
            else fit.check(),
        ),
    )


def _version(slide: Slide, result: NucleiResult, area: float) -> str:
    """Data version of everything that later stages read, not only the maps: at another scale, densities differ."""
    import pandas as pd

    maps = (result.semantic, result.ternary, result.instances)
    scale = f"{slide.mpp} {slide.mpp_source.value} {area}".encode()
    table = pd.util.hash_pandas_object(result.table).to_numpy().tobytes()
    return content_version(chain((scale, table), *(labels.content() for labels in maps)))


def _density_check(density: float | None) -> Check:
    low, high = _NUCLEI_PER_MM2
    return Check(
        "nucleus_density",
        passed=density is not None and low <= density <= high,
        description="There is no tissue to find nuclei in."
        if density is None
        else f"{density:,.0f} nuclei per mm² of tissue (expected {low:,.0f} to {high:,.0f}).",
        values={"nuclei_per_mm2": density},
    )
