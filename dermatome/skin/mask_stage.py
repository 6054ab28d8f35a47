"""The stage `epidermis_masks`: the tissue mask of a slide, file to file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dermatome import figures, label_io
from dermatome.classes import TissueClass
from dermatome.compute import Compute, ComputeSettings
from dermatome.data_root import DataRoot
from dermatome.engine.work import Seat
from dermatome.skin.networks import Champion
from dermatome.skin.stage_parts import MASK_FILE, read_made_slide, timed, versions_of, write_figure
from dermatome.skin.tissue import TissueOutcome, TissueResult, TissueSettings, segment_tissue
from dermatome.slide import Slide
from dermatome.stage_record import Check, StageResult, content_version

if TYPE_CHECKING:
    from dermatome.weights import LoadedWeights

_TISSUE_COLOURS = {int(c): (c.label, c.colour) for c in TissueClass}


@dataclass(frozen=True)
class _Segmented:
    slide: Slide
    result: TissueResult
    seconds: dict[str, float]


@dataclass
class MaskStage:
    """Makes `mask.npz`, `mask.ome.tif`, `tissue.geojson`, `figure.png` of each slide."""

    root: DataRoot
    champion: Champion
    compute_settings: ComputeSettings
    tissue: TissueSettings
    asset: ClassVar[str] = "epidermis_masks"
    always: ClassVar[bool] = False
    _weights: LoadedWeights | None = field(default=None, init=False, repr=False)
    _compute: Compute | None = field(default=None, init=False, repr=False)
    _seat: Seat = field(default=Seat(), init=False, repr=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of the segmentation."""
        return asdict(self.tissue)

    def inputs(self, key: str) -> dict[str, str]:
        """The image and the champion."""
        return {**versions_of(self.root, key, "slide_images"), "tissue_champion": self.champion.data_version}

    def open(self, seat: Seat) -> None:
        """Puts the network on the device."""
        self._seat = seat
        self._compute = self.compute_settings.choose(threads=seat.threads, device_index=seat.device_index)
        self._weights = self.champion.load(self._compute)

    def read(self, key: str) -> tuple[Slide, dict[str, float]]:
        """Decodes the image."""
        seconds: dict[str, float] = {}
        with timed(seconds, "decode"):
            slide = read_made_slide(self.root, key)
        return slide, seconds

    def pixels(self, read: tuple[Slide, dict[str, float]]) -> int:
        """Of the image."""
        return read[0].size.area_px

    def compute(self, reads: Sequence[tuple[Slide, dict[str, float]]]) -> list[_Segmented]:
        """Segments."""
        assert self._weights is not None
        assert self._compute is not None
        found = []
        for slide, seconds in reads:
            with timed(seconds, "segment"):
                result = segment_tissue(
                    slide, self._weights, self._compute, self.tissue, progress=lambda _: self._seat.check()
                )
            found.append(_Segmented(slide, result, seconds))
        return found

    def write(self, key: str, found: _Segmented, folder: Path) -> StageResult:
        """Writes the mask in every format."""
        assert self._compute is not None
        slide, result, seconds = found.slide, found.result, dict(found.seconds)
        with timed(seconds, "write"):
            label_io.save_mask(folder / MASK_FILE, result.mask, result.crop)
            label_io.write_ome_tiff(folder / "mask.ome.tif", result.mask, slide.mpp, _TISSUE_COLOURS, name=key)
            outlines = label_io.tissue_geojson(result.mask, mpp=slide.mpp, slide=key)
            label_io.write_geojson(folder / "tissue.geojson", outlines)
        with timed(seconds, "figure"):
            write_figure(folder, figures.tissue_figure(slide, result))
        shares = {c.label: float(np.mean(result.mask == c)) for c in TissueClass}
        return StageResult(
            outcome=result.outcome.value,
            message=""
            if result.outcome is TissueOutcome.TISSUE
            else f"{key} has no epidermis; cells and layers will say the same.",
            data_version=content_version([result.mask.tobytes(), repr(result.mask.shape).encode()]),
            values={
                "weights": self.champion.version,
                "weights_sha256": self.champion.sha256,
                "device": self._compute.device_name,
                "precision": self._compute.precision,
                "mpp": slide.mpp,
                "mpp_source": slide.mpp_source.value,
                "crop_top_px": result.crop.top_px,
                "crop_left_px": result.crop.left_px,
                "crop_bottom_px": result.crop.bottom_px,
                "crop_right_px": result.crop.right_px,
                "mean_confidence": result.mean_confidence,
                "tiles": result.tiles,
                **{f"{name}_share": share for name, share in shares.items()},
                "epidermis_um2": shares["epidermis"] * slide.size.area_px * slide.mpp**2,
            },
            seconds=seconds | {f"segment_{name}": value for name, value in result.seconds.items()},
            checks=_checks(shares),
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
