"""Tissue of slides, coarse to fine: a first look at the shrunken slide, then its significant regions in detail."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dermatome.inference.backends import Runner, prepare_runner
from dermatome.inference.predictor import Predictor
from dermatome.skin.tissue.settings import TissueSettings
from dermatome.skin.tissue.slide_work import SlideWork
from dermatome.skin.tissue.slide_work import TissueOutcome as TissueOutcome
from dermatome.skin.tissue.slide_work import TissueResult as TissueResult

if TYPE_CHECKING:
    from dermatome.inference.compute import Compute
    from dermatome.skin.tissue.network import TissueWeights
    from dermatome.slides.slide import Slide


@dataclass(frozen=True)
class TissueNetwork:
    """The tissue network, prepared to run.

    Attributes:
        weights: the network and its card.
        first: runs it for the first look.
        fine: runs it in detail, averaged over views where that is set.
    """

    weights: TissueWeights
    first: Runner
    fine: Runner


def prepare_tissue(
    weights: TissueWeights,
    compute: Compute,
    settings: TissueSettings | None = None,
) -> TissueNetwork:
    """Prepares the network once for many slides; the arguments are those of :func:`prepare_runner`.

    Raises:
        BadSetting: the backend is not to be had, or the number of views is none.
    """
    from dermatome.inference.probabilities import Probabilities as Module

    settings = settings or TissueSettings()
    card = weights.card
    side = settings.tile_px or card.tile_px
    example = np.random.default_rng(0).integers(0, 256, (settings.batch, side, side, 3), np.uint8)

    def ready(views: int) -> Runner:
        module = Module(weights.network, card.mean, card.std, views).eval()
        return prepare_runner(module, example, compute)

    first = ready(1)
    return TissueNetwork(weights, first, first if settings.views == 1 else ready(settings.views))


def segment_tissue(
    slide: Slide,
    network: TissueNetwork,
    settings: TissueSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> TissueResult:
    """Background, dermis, epidermis and keratin of a slide; see :func:`segment_slides`."""
    return segment_slides([slide], network, settings, progress)[0]


def segment_slides(
    slides: Sequence[Slide],
    network: TissueNetwork,
    settings: TissueSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[TissueResult]:
    """Background, dermis, epidermis and keratin of slides; small ones share the network's batches.

    A slide is rescaled from its mpp to the weights'. A first look at ``coarse_mpp`` finds epidermis and keratin; those
    connected regions that have at least ``significant_share`` of the largest one's area are segmented again at the
    network's resolution in overlapping, blended tiles. Outside of them the first look stands, small islands of
    epidermis too. Then specks and holes are removed. What is held grows with a slide's area at the network's
    resolution, by a byte or two for each pixel, and not with its area at full resolution.

    Args:
        slides: several small ones, or one large one; what is found does not depend on which come together.
        network: of :func:`prepare_tissue`, with the same settings.
        settings: see :class:`TissueSettings`.
        progress: called with a short sentence after each batch; what it raises stops the work.

    Returns:
        A result for each slide, in order.

    Raises:
        BadSetting: a setting does not fit.
        BadImage: a part of a slide that is read in parts is damaged.
    """
    settings = settings or TissueSettings()
    card = network.weights.card
    tile_px = settings.tile_px or card.tile_px
    overlap_px = tile_px // 4 if settings.overlap_px is None else settings.overlap_px
    first, fine = (
        Predictor(runner, len(card.classes), tile_px, overlap_px, settings.batch)
        for runner in (network.first, network.fine)
    )
    tell = progress or (lambda _: None)
    names = slides[0].name if len(slides) == 1 else f"{len(slides)} slides"
    clock = [time.perf_counter()]
    works = [SlideWork(slide, card, settings) for slide in slides]
    tiles = first.run([work.look for work in works], lambda done: tell(f"{names}: first look, {done} tiles done"))
    for work, count in zip(works, tiles, strict=True):
        work.tiles += count
        work.choose_regions(settings)
    clock.append(time.perf_counter())
    parts = [(work, box) for work in works for box in work.regions]
    told = fine.run(
        [work.part(box) for work, box in parts], lambda done: tell(f"{names}: in detail, {done} tiles done")
    )
    for (work, _), count in zip(parts, told, strict=True):
        work.tiles += count
    clock.append(time.perf_counter())
    results = []
    for work in works:
        results.append(work.result(settings.cleanup, network.fine.backend))
    clock.append(time.perf_counter())
    seconds = dict(zip(("coarse", "refine", "cleanup"), np.diff(clock).tolist(), strict=True))
    for result in results:
        result.seconds.update(seconds)
    return results
