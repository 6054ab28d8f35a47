"""Segments the tissue of slides: a coarse pass over the shrunken slide, then a fine pass over significant regions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dermatome.classes import BoolMap, ClassMap, TissueClass
from dermatome.errors import BadSetting
from dermatome.geometry import Box, Size
from dermatome.imaging.background import slide_light
from dermatome.imaging.tiling import Probabilities, RowEnlarger
from dermatome.inference.backends import Runner
from dermatome.inference.canvas import Canvas, most_probable
from dermatome.inference.kept import prepare_kept
from dermatome.inference.predictor import Predictor, Scene
from dermatome.pipeline.stage_files import timed
from dermatome.skin.tissue.cleanup import clean_labels
from dermatome.skin.tissue.settings import CleanupSettings, TissueSettings
from dermatome.slides.resize import resize_image, resize_labels
from dermatome.storage.record import Check

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from dermatome.classes import RgbImage
    from dermatome.inference.compute import Compute
    from dermatome.skin.tissue.network import TissueCard, TissueWeights
    from dermatome.slides.slide import Slide

LEAST_JOINED_DERMIS = 0.1
"""Share of the tissue below which the network has taken something else than skin for epidermis.

Epidermis lies on dermis, and that is one piece. Stroma of other organs, which networks take for dermis, lies in pieces
between glands. Measured in docs/results.md. The network's confidence does not tell them apart: it is as high on either.
"""
OVERVIEW_PX = 1024
"""Longest side of :attr:`TissueResult.overview`, px."""


class TissueOutcome(StrEnum):
    """The outcome of a segmentation."""

    TISSUE = "tissue"
    NO_EPIDERMIS = "no_epidermis"


@dataclass(frozen=True, eq=False)
class TissueResult:
    """The tissue of a slide.

    The mask at full resolution is computed on demand, in bands, as it is large and no longer needs the network.

    Attributes:
        size: size of the slide, and of the mask.
        canvas: class probabilities at the network's resolution, cleaned.
        crop: the part of the slide that was refined; the whole slide if nothing was significant.
        coarse_mask: (h, w) uint8, the result of the coarse pass.
        significant: (h, w) bool, the pixels of the coarse pass in significant regions.
        refined: (h, w) uint8, the mask before cleanup, at the size of ``overview``.
        overview: (h, w, 3) uint8, the shrunken slide.
        outcome: tissue, or no epidermis.
        epidermis_share: share of the slide's area that is epidermis.
        tissue_share: share of the slide's area that is not background.
        joined_dermis: share of the tissue that is dermis in one piece, see :func:`joined_dermis`.
        mean_confidence: mean probability of the chosen class, in the fine pass where there was one.
        tiles: how many tiles went through the network.
        backend: backend that ran the network.
        seconds: by phase: coarse, refine, cleanup; of all slides that were segmented together.
        warning: of the network's card.
    """

    size: Size
    canvas: Canvas
    crop: Box
    coarse_mask: ClassMap
    significant: BoolMap
    refined: ClassMap
    overview: RgbImage
    outcome: TissueOutcome
    epidermis_share: float
    tissue_share: float
    joined_dermis: float
    mean_confidence: float
    tiles: int
    backend: str
    seconds: dict[str, float]
    warning: str = ""

    def bands(self) -> Iterator[tuple[int, ClassMap]]:
        """Yields the mask in bands from the top: top row and (rows, W) uint8 of :class:`TissueClass`."""
        return self.canvas.labels_at(self.size)

    def skin_check(self) -> Check:
        """Whether the slide looks like skin to the network: with epidermis, there is dermis in one piece."""
        skin = self.epidermis_share == 0 or self.joined_dermis >= LEAST_JOINED_DERMIS
        text = (
            f"{self.joined_dermis:.1%} of the tissue is dermis in one piece (expected at least "
            f"{LEAST_JOINED_DERMIS:.0%} where there is epidermis)."
        )
        if not skin:
            text = f"This does not look like the skin that the network was trained on: {text}"
        return Check("looks_like_skin", skin, text, {"joined_dermis": self.joined_dermis})

    @cached_property
    def mask(self) -> ClassMap:
        """The whole mask, (H, W) uint8 of :class:`TissueClass`, for slides that fit into memory."""
        return np.concatenate([band for _, band in self.bands()])


SCALE_TOLERANCE = 1.5


def check_scale(slide: Slide, card: TissueCard, settings: TissueSettings) -> None:
    """Refuses a slide whose scale the network was not trained at, unless the settings allow it.

    A finer slide is averaged to the network's scale; a coarser one can only be enlarged, and lacks detail.

    Raises:
        BadSetting: the slide's pixels are more than 1.5 times as large as in training, or ``coarse_mpp`` is that far
            outside of the scales in training.
    """
    if settings.any_scale:
        return
    if slide.mpp > SCALE_TOLERANCE * card.mpp:
        raise BadSetting(
            f"{slide.name} has {slide.mpp:g} µm per pixel but the weights were trained at {card.mpp:g}, more than "
            f"{SCALE_TOLERANCE:g} times finer: use weights for that scale, correct the slide's mpp, or set any_scale."
        )
    low, high = card.mpp_range[0] / SCALE_TOLERANCE, card.mpp_range[1] * SCALE_TOLERANCE
    if settings.coarse_mpp is not None and not low <= settings.coarse_mpp <= high:
        raise BadSetting(
            f"The coarse pass is set to {settings.coarse_mpp:g} µm per pixel but the weights were trained at "
            f"{card.mpp_range[0]:g} to {card.mpp_range[1]:g}: do not set coarse_mpp, or set any_scale."
        )


@dataclass(frozen=True)
class TissueNetwork:
    """The tissue network, prepared for inference.

    Attributes:
        weights: the network and its card.
        first: runs it in the coarse pass.
        fine: runs it in the fine pass, averaged over views if that is set.
    """

    weights: TissueWeights
    first: Runner
    fine: Runner


def prepare_tissue(
    weights: TissueWeights,
    compute: Compute,
    settings: TissueSettings | None = None,
    kept: Path | None = None,
) -> TissueNetwork:
    """Prepares the network once for many slides, or reads it from the folder ``kept``; see :func:`prepare_kept`.

    Raises:
        BadSetting: the backend is not available, or the number of views is not valid.
    """
    from dermatome.inference.probabilities import Probabilities as Module

    settings = settings or TissueSettings()
    card = weights.card
    side = settings.tile_px or card.tile_px
    example = np.random.default_rng(0).integers(0, 256, (settings.batch, side, side, 3), np.uint8)

    def ready(views: int) -> Runner:
        def build() -> torch.nn.Module:
            return Module(weights.network, card.mean, card.std, views).eval()

        return prepare_kept(build, example, compute, f"{weights.sha256}, {views} views", kept)

    first = ready(1)
    return TissueNetwork(weights, first, first if settings.views == 1 else ready(settings.views))


def segment_tissue(
    slide: Slide,
    network: TissueNetwork,
    settings: TissueSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> TissueResult:
    """Finds background, dermis, epidermis and keratin of a slide; see :func:`segment_slides`."""
    return segment_slides([slide], network, settings, progress)[0]


def segment_slides(
    slides: Sequence[Slide],
    network: TissueNetwork,
    settings: TissueSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[TissueResult]:
    """Finds background, dermis, epidermis and keratin of slides; small slides share the network's batches.

    A slide is rescaled to the weights' mpp, and its light to the usual intensity if that differs. A coarse pass at
    ``coarse_mpp`` finds epidermis and keratin; connected regions with at least ``significant_share`` of the largest
    one's area are segmented again at the network's resolution in overlapping, blended tiles. Outside of these, the
    result of the coarse pass is kept, including small islands of epidermis. Then specks and holes are removed. Memory
    grows with a slide's area at the network's resolution, by one or two bytes per pixel, not with its area at full
    resolution.

    Results do not depend on which slides are segmented together. ``progress`` is called with a short sentence after
    each batch; an exception in it stops the run.

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
    report = progress or (lambda _: None)
    names = slides[0].name if len(slides) == 1 else f"{len(slides)} slides"
    seconds: dict[str, float] = {}
    with timed(seconds, "coarse"):
        works = [SlideWork(slide, card, settings) for slide in slides]
        tiles = first.run(
            [work.coarse_scene for work in works], lambda done: report(f"{names}: coarse pass, {done} tiles done")
        )
        for work, count in zip(works, tiles, strict=True):
            work.tiles += count
            work.choose_regions(settings)
    parts = [(work, box) for work in works for box in work.regions]
    with timed(seconds, "refine"):
        fine_tiles = fine.run(
            [work.part(box) for work, box in parts], lambda done: report(f"{names}: fine pass, {done} tiles done")
        )
        for (work, _), count in zip(parts, fine_tiles, strict=True):
            work.tiles += count
    with timed(seconds, "cleanup"):
        results = [work.result(settings.cleanup, network.fine.backend, card.warning) for work in works]
    for result in results:
        result.seconds.update(seconds)
    return results


def significant_regions(coarse: ClassMap, share: float) -> tuple[BoolMap, list[Box]]:
    """Connected regions of epidermis and keratin with at least ``share`` (0 to 1) of the largest one's area.

    Returns:
        (h, w) bool of their pixels, and a box for each, in reading order.
    """
    import cv2

    wanted = (coarse == TissueClass.EPIDERMIS) | (coarse == TissueClass.KERATIN)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(wanted.view(np.uint8), connectivity=8)
    if count == 1:
        return np.zeros(coarse.shape, dtype=bool), []
    areas = stats[1:, cv2.CC_STAT_AREA]
    kept = 1 + np.flatnonzero(areas >= share * areas.max())
    boxes = []
    for piece in kept:
        left, top, width, height = (int(v) for v in stats[piece, :4])
        boxes.append(Box(top, left, top + height, left + width))
    wanted_piece = np.zeros(count, bool)
    wanted_piece[kept] = True
    return wanted_piece[pieces], boxes


def joined_dermis(labels: ClassMap) -> float:
    """Share of the tissue that is dermis in one piece: the largest piece of dermis in each connected piece of tissue.

    Several sections on a slide count as one does.

    Args:
        labels: (h, w) uint8 of :class:`TissueClass`.
    """
    import cv2

    tissue = (labels != TissueClass.BACKGROUND).view(np.uint8)
    count, sections = cv2.connectedComponents(tissue, connectivity=8)
    dermis = (labels == TissueClass.DERMIS).view(np.uint8)
    pieces, piece_of, stats, _ = cv2.connectedComponentsWithStats(dermis, connectivity=8)
    section_of = np.zeros(pieces, np.int64)
    section_of[piece_of] = sections  # all pixels of a piece are in one section
    largest = np.zeros(count)
    np.maximum.at(largest, section_of[1:], stats[1:, cv2.CC_STAT_AREA])
    return float(largest.sum() / max(1, np.count_nonzero(tissue)))


def merge_boxes(boxes: list[Box]) -> list[Box]:
    """Disjoint boxes that cover all of ``boxes``: overlapping boxes are merged."""
    merged: list[Box] = []
    for box in boxes:
        joined = True
        while joined:
            joined = False
            for other in merged:
                common = box.common(other).size
                if min(common.height_px, common.width_px) > 0:
                    merged.remove(other)
                    box, joined = Box.covering([box, other]), True
                    break
        merged.append(box)
    return sorted(merged, key=lambda b: (b.top_px, b.left_px))


class SlideWork:
    """The state of one slide during both passes."""

    def __init__(self, slide: Slide, card: TissueCard, settings: TissueSettings) -> None:
        check_scale(slide, card, settings)
        self.slide, self.size, self.background = slide, slide.size, slide_light(slide)
        self.fine_size = self.size.scaled(slide.mpp / card.mpp)
        self.coarse_size = self.size.scaled(slide.mpp / (settings.coarse_mpp or card.coarse_mpp))
        self.canvas = Canvas(len(card.classes), self.fine_size)
        self.coarse = np.empty((self.coarse_size.height_px, self.coarse_size.width_px), np.uint8)
        self.regions: list[Box] = []
        self.tiles, self.coarse_confidence, self.confidence = 0, 0.0, 0.0
        self.overview: list[RgbImage] = []
        enlarge = RowEnlarger(self.coarse_size, self.fine_size, lambda top, rows: self.canvas.write(top, 0, rows))

        def seen(top: int, rows: Probabilities) -> None:
            self.coarse[top : top + rows.shape[1]] = most_probable(rows)
            self.coarse_confidence += float(rows.max(axis=0).sum(dtype=np.float64))
            enlarge(top, rows)

        self.coarse_scene = Scene(self.coarse_size, self._coarse_rows, seen)

    def _coarse_rows(self) -> Iterable[RgbImage]:
        """The shrunken slide in bands; a large one, which is decoded only once, is also stored as an overview."""
        longest = max(self.coarse_size.height_px, self.coarse_size.width_px)
        if longest <= OVERVIEW_PX:
            side_px = max(self.size.height_px, self.size.width_px)
            # By a whole number of pixels, which takes a third of the time.
            self.overview = [self.slide.overview(side_px // math.ceil(side_px / OVERVIEW_PX))]
        small = self.coarse_size.scaled(OVERVIEW_PX / longest)
        top = 0
        for band in self.slide.rows(Box.whole(self.size), self.coarse_size):
            bottom = top + len(band)
            rows = [round(edge * small.height_px / self.coarse_size.height_px) for edge in (top, bottom)]
            if longest > OVERVIEW_PX and rows[1] > rows[0]:
                self.overview.append(resize_image(band, Size(rows[1] - rows[0], small.width_px)))
            top = bottom
            yield self.background.relight(band)

    def choose_regions(self, settings: TissueSettings) -> None:
        """Chooses the boxes on the canvas for the fine pass."""
        self.significant, boxes = significant_regions(self.coarse, settings.significant_share)
        if max(self.fine_size.height_px, self.fine_size.width_px) <= settings.refine_whole_px:
            self.regions = [Box.whole(self.fine_size)]
        else:
            per_px = self.slide.mpp * self.size.height_px / self.fine_size.height_px
            margin_px = round(settings.margin_um / per_px)
            grown = [b.rescaled(self.coarse_size, self.fine_size).expanded(margin_px, self.fine_size) for b in boxes]
            self.regions = merge_boxes(grown)

    def part(self, box: Box) -> Scene:
        """The part of the canvas in ``box``, to be predicted in the fine pass."""
        there = self._on_slide(box)

        def found(top: int, rows: Probabilities) -> None:
            self.confidence += float(rows.max(axis=0).sum(dtype=np.float64))
            self.canvas.write(box.top_px + top, box.left_px, rows)

        return Scene(box.size, lambda: map(self.background.relight, self.slide.rows(there, box.size)), found)

    def _on_slide(self, box: Box) -> Box:
        """The box at full resolution, with edges at the nearest pixels."""
        down, along = self.size.height_px / self.fine_size.height_px, self.size.width_px / self.fine_size.width_px
        top, left = min(round(box.top_px * down), self.size.height_px - 1), round(box.left_px * along)
        left = min(left, self.size.width_px - 1)
        return Box(top, left, max(top + 1, round(box.bottom_px * down)), max(left + 1, round(box.right_px * along)))

    def result(self, cleanup: CleanupSettings, backend: str, warning: str) -> TissueResult:
        """Cleans the labels and returns the result."""
        labels = self.canvas.labels()
        seen = np.concatenate(self.overview)
        refined = resize_labels(labels, Size(*seen.shape[:2]))
        clean_labels(labels, self.slide.mpp * self.size.height_px / self.fine_size.height_px, cleanup)
        self.canvas.correct(labels)
        counts = np.bincount(labels.ravel(), minlength=len(TissueClass))
        area = self.fine_size.area_px
        refined_px = sum(box.size.area_px for box in self.regions)
        confidence = self.confidence / refined_px if refined_px else self.coarse_confidence / self.coarse_size.area_px
        return TissueResult(
            size=self.size,
            canvas=self.canvas,
            crop=self._on_slide(Box.covering(self.regions)) if self.regions else Box.whole(self.size),
            coarse_mask=self.coarse,
            significant=self.significant,
            refined=refined,
            overview=seen,
            outcome=TissueOutcome.TISSUE if counts[TissueClass.EPIDERMIS] else TissueOutcome.NO_EPIDERMIS,
            epidermis_share=float(counts[TissueClass.EPIDERMIS] / area),
            tissue_share=float(1 - counts[TissueClass.BACKGROUND] / area),
            joined_dermis=joined_dermis(resize_labels(labels, Size(*seen.shape[:2]))),
            mean_confidence=confidence,
            tiles=self.tiles,
            backend=backend,
            seconds={},
            warning=warning,
        )
