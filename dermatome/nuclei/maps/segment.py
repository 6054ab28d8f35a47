"""Segments the nuclei of slides: blended network tiles become maps, instances and a table while rows arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dermatome.classes import NUCLEUS_LABELS, UNCLASSIFIED
from dermatome.errors import BadSetting
from dermatome.geometry import Box, Size
from dermatome.imaging.stain_normalisation import StainFit, fit_slide
from dermatome.imaging.tiling import Probabilities, RowEnlarger
from dermatome.imaging.tissue_area import tissue_mask
from dermatome.inference.backends import Runner
from dermatome.inference.canvas import most_probable
from dermatome.inference.kept import prepare_kept
from dermatome.inference.predictor import Predictor, Scene
from dermatome.labels.drawn_maps import NucleusMaps
from dermatome.labels.tiled import TiledArray
from dermatome.nuclei.maps.instances import InstanceBuilder
from dermatome.nuclei.maps.network import BACKGROUND_CHANNELS, CHANNELS, HEADS, SEMANTIC, TERNARY
from dermatome.nuclei.maps.settings import NucleusSettings

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import torch

    from dermatome.classes import RgbImage
    from dermatome.inference.compute import Compute
    from dermatome.nuclei.maps.network import NucleusCard
    from dermatome.slides.slide import Slide
    from dermatome.training.weights import LoadedWeights

_AS_IT_IS = 1.05
"""A slide whose scale differs from the network's by at most this factor is not rescaled."""
_MOST_ENLARGED = 4.0
_BACKGROUND = np.isin(np.arange(CHANNELS), BACKGROUND_CHANNELS).astype(np.float32)

Normalise = Callable[["RgbImage"], "RgbImage"]
"""Changes the stain of a part of a slide, pixel by pixel."""


@dataclass(frozen=True)
class NucleusNetwork:
    """The nucleus network, prepared for inference.

    Attributes:
        runner: returns (N, 8, h, w) float32 probabilities of both heads.
    """

    weights: LoadedWeights[NucleusCard]
    runner: Runner


@dataclass(frozen=True)
class NucleiResult:
    """The nuclei of a slide; all maps are (H, W), of the slide's size.

    Attributes:
        semantic: uint8, :class:`~dermatome.classes.NucleusClass`.
        ternary: uint8, :class:`~dermatome.classes.TernaryClass`.
        instances: int32, 0 or the nucleus's number, 1..N in reading order.
        table: a row for each nucleus, columns :data:`dermatome.nuclei.maps.table.NUCLEUS_COLUMNS`.
        seconds: wall time of each phase, s; of all slides that were computed together.
    """

    semantic: TiledArray
    ternary: TiledArray
    instances: TiledArray
    table: pd.DataFrame
    tiles: int
    backend: str
    seconds: dict[str, float] = field(default_factory=dict)
    warning: str = ""

    def whole(self) -> NucleusMaps:
        """The maps in memory, for scoring, if they fit there; a nucleus without a class has 0."""
        kinds = [0 if label == UNCLASSIFIED else NUCLEUS_LABELS.index(label) for label in self.table["class"]]
        return NucleusMaps(
            self.instances.whole(), self.semantic.whole(), self.ternary.whole(), np.array([0, *kinds], np.uint8)
        )


def prepare_nuclei(
    weights: LoadedWeights[NucleusCard],
    compute: Compute,
    settings: NucleusSettings | None = None,
    kept: Path | None = None,
) -> NucleusNetwork:
    """Prepares the network once for many slides, or reads it from the folder ``kept``; see :func:`prepare_kept`.

    Raises:
        BadSetting: the backend is not available, or the number of views is not valid.
    """
    from dermatome.inference.probabilities import Probabilities as Module

    settings = settings or NucleusSettings()
    shape = (settings.batch, settings.tile_px, settings.tile_px, 3)
    example = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def build() -> torch.nn.Module:
        return Module(weights.network, weights.card.mean, weights.card.std, settings.views, HEADS).eval()

    return NucleusNetwork(
        weights, prepare_kept(build, example, compute, f"{weights.sha256}, {settings.views} views", kept)
    )


def fitted_stain(slide: Slide, network: NucleusNetwork, settings: NucleusSettings) -> StainFit | None:
    """The stains of a slide if it is to be normalised, by the settings or else the weights' card; otherwise None."""
    wanted = settings.normalise_stain
    return fit_slide(slide) if (network.weights.card.normalised_stain if wanted is None else wanted) else None


def segment_nuclei(
    slides: Sequence[Slide],
    network: NucleusNetwork,
    settings: NucleusSettings | None = None,
    progress: Callable[[int], None] | None = None,
    *,
    normalise: Sequence[Normalise | None] | None = None,
) -> list[NucleiResult]:
    """Computes semantic and ternary map, instances and table of slides; small slides share the network's batches.

    A slide is rescaled from its mpp to the weights' and run through the network in overlapping tiles. Their
    probabilities are blended with a raised-cosine window and scaled back to the slide; rows become maps and nuclei as
    they arrive. Memory does not grow with a slide's height, except for the packed maps and the table.

    Args:
        slides: several small ones, or one large one; results do not depend on which are computed together.
        network: network from :func:`prepare_nuclei`, with the same settings.
        settings: see :class:`NucleusSettings`.
        progress: called with the number of finished tiles after each batch; an exception in it stops the run.
        normalise: function that changes each slide's stain before the network, or None.

    Returns:
        A result for each slide, in order.

    Raises:
        BadSetting: a setting does not fit, or a slide is far too coarse for the weights.
        BadImage: a part of a slide that is read in parts is damaged.
    """
    settings = settings or NucleusSettings()
    started = time.perf_counter()
    predictor = Predictor(
        network.runner,
        CHANNELS,
        settings.tile_px,
        settings.overlap_px,
        settings.batch,
        settings.skip_background,
        BACKGROUND_CHANNELS,
    )
    changes = normalise or [None] * len(slides)
    works = [_Work(slide, network, settings, change) for slide, change in zip(slides, changes, strict=True)]
    tiles = predictor.run([work.scene() for work in works], progress)
    predicted = time.perf_counter()
    results = []
    for work, count in zip(works, tiles, strict=True):
        instances, table = work.builder.finish()
        result = NucleiResult(
            work.semantic, work.ternary, instances, table, count, network.runner.backend,
            warning=network.weights.card.warning,
        )  # fmt: skip
        result.seconds.update(predict=predicted - started, number=time.perf_counter() - predicted)
        results.append(result)
    return results


class _Work:
    """The state of one slide during the run of the network."""

    def __init__(
        self, slide: Slide, network: NucleusNetwork, settings: NucleusSettings, normalise: Normalise | None
    ) -> None:
        self._slide, self._normalise = slide, normalise
        self._size = network_size(slide, network.weights.card.mpp)
        self.semantic, self.ternary = TiledArray(slide.size, np.uint8), TiledArray(slide.size, np.uint8)
        self.builder = InstanceBuilder(slide.size, slide.mpp, settings.instances)
        self._has_classes = network.weights.card.has_classes
        self._tissue = tissue_mask(slide) if settings.only_tissue else np.ones((1, 1), bool)

    def scene(self) -> Scene:
        """The slide at the network's scale."""
        return Scene(self._size, self._rows, RowEnlarger(self._size, self._slide.size, self._take))

    def _rows(self) -> Iterable[RgbImage]:
        for rows in self._slide.rows(Box.whole(self._slide.size), self._size):
            yield rows if self._normalise is None else self._normalise(rows)

    def _take(self, top: int, rows: Probabilities) -> None:
        if not self._tissue.all():
            height_px, width_px = self._slide.size.height_px, self._slide.size.width_px
            down = np.arange(top, top + rows.shape[1]) * self._tissue.shape[0] // height_px
            along = np.arange(width_px) * self._tissue.shape[1] // width_px
            background = ~self._tissue[np.ix_(down, along)]
            rows = np.where(background, _BACKGROUND[:, None, None], rows)
        if not self._has_classes:
            rows = rows.copy()
            rows[SEMANTIC] = _BACKGROUND[SEMANTIC][:, None, None]
        self.semantic.append(most_probable(rows[SEMANTIC]))
        self.ternary.append(most_probable(rows[TERNARY]))
        self.builder.add(rows)


def network_size(slide: Slide, mpp: float) -> Size:
    """The size of a slide at the network's ``mpp``; its own size if the scales are nearly equal.

    Raises:
        BadSetting: the slide is so coarse that nuclei cannot be resolved.
    """
    factor = slide.mpp / mpp
    if factor > _MOST_ENLARGED:
        raise BadSetting(
            f"{slide.name} has {slide.mpp:g} µm per pixel but the weights were trained at {mpp:g}, more than "
            f"{_MOST_ENLARGED:g} times finer: use a finer scan, or declare its true scale."
        )
    return slide.size if 1 / _AS_IT_IS <= factor <= _AS_IT_IS else slide.size.scaled(factor)
