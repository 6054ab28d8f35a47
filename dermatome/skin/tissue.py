"""Tissue of a slide, coarse to fine: a first look at the shrunken slide, then its significant regions in detail."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.classes import TissueClass
from dermatome.errors import BadSetting
from dermatome.geometry import Box
from dermatome.predict import Predictor, resize_image, resize_labels
from dermatome.skin.cleanup import CleanupSettings, clean_mask

if TYPE_CHECKING:
    from dermatome.compute import Compute
    from dermatome.slide import Slide
    from dermatome.weights import LoadedWeights

Mask = npt.NDArray[np.uint8]


class TissueOutcome(StrEnum):
    """What was found on a slide."""

    TISSUE = "tissue"
    NO_EPIDERMIS = "no_epidermis"


@dataclass(frozen=True)
class TissueSettings:
    """How a slide is segmented.

    Attributes:
        coarse_mpp: microns per pixel of the first look; ``None`` takes the weights card's.
        tile_px: side of the tiles at the network's resolution; ``None`` takes the card's.
        overlap_px: what neighbouring tiles share, at the network's resolution; ``None`` takes a quarter of the tile.
        batch: tiles at once.
        views: 1, 2, 4 or 8 flips and turns averaged in the fine pass; each costs a pass, for a few thousandths of IoU.
        significant_share: regions of epidermis and keratin are refined if they have this share of the largest's area.
        margin_um: added on each side of a region.
        refine_whole_px: a slide of at most this side at the network's resolution is refined whole.
        cleanup: areas of specks and holes.
    """

    coarse_mpp: float | None = None
    tile_px: int | None = None
    overlap_px: int | None = None
    batch: int = 8
    views: int = 1
    significant_share: float = 0.10
    margin_um: float = 64.0
    refine_whole_px: int = 320
    cleanup: CleanupSettings = field(default_factory=CleanupSettings)

    def __post_init__(self) -> None:
        """Checks the settings."""
        if not 0 <= self.significant_share <= 1:
            raise BadSetting(f"The significant share is {self.significant_share}: set it from 0 to 1.")
        if self.margin_um < 0:
            raise BadSetting(f"The margin is {self.margin_um} µm: set it to 0 or more.")
        if self.coarse_mpp is not None and not self.coarse_mpp > 0:
            raise BadSetting(f"The coarse mpp is {self.coarse_mpp}: set it above 0.")


@dataclass(frozen=True)
class TissueResult:
    """The tissue of a slide.

    Attributes:
        mask: (H, W) uint8 of :class:`TissueClass`, at the slide's full resolution.
        crop: the part of the slide that was refined; the whole slide where nothing was significant.
        coarse_mask: (h, w) uint8, the first look.
        significant: (h, w) bool, the pixels of the first look that belong to significant regions.
        refined: (H, W) uint8, the mask before cleanup.
        outcome: tissue, or no epidermis.
        epidermis_share: share of the slide's pixels.
        tissue_share: share of the slide's pixels that are not background.
        mean_confidence: mean probability of the chosen class, in the fine pass where there was one.
        tiles: how many tiles went through the network.
        seconds: by phase: coarse, refine, cleanup.
    """

    mask: Mask
    crop: Box
    coarse_mask: Mask
    significant: npt.NDArray[np.bool_]
    refined: Mask
    outcome: TissueOutcome
    epidermis_share: float
    tissue_share: float
    mean_confidence: float
    tiles: int
    seconds: dict[str, float]


def segment_tissue(
    slide: Slide,
    weights: LoadedWeights,
    compute: Compute,
    settings: TissueSettings | None = None,
    progress: Callable[[str], None] | None = None,
) -> TissueResult:
    """Background, dermis, epidermis and keratin of a slide.

    The slide is rescaled from its mpp to the weights'. A first look at ``coarse_mpp`` finds epidermis and keratin;
    those connected regions that have at least ``significant_share`` of the largest one's area are segmented again at
    the network's resolution in overlapping, blended tiles. Outside of them the first look stands, small islands of
    epidermis too. Then specks and holes are removed.

    Args:
        slide: the slide.
        weights: the network and its card.
        compute: device and precision.
        settings: see :class:`TissueSettings`.
        progress: called with a short sentence now and then.

    Raises:
        BadSetting: a setting does not fit, or the slide is not even a pixel wide at the coarse scale.
    """
    settings = settings or TissueSettings()
    tell = progress or (lambda _: None)
    card = weights.card
    tile_px = settings.tile_px or card.tile_px
    base = Predictor(
        network=weights.network.to(compute.torch_device),
        classes=len(card.classes),
        mean=card.mean,
        std=card.std,
        compute=compute,
        tile_px=tile_px,
        overlap_px=tile_px // 4 if settings.overlap_px is None else settings.overlap_px,
        batch=settings.batch,
    )
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    size = slide.size
    fine_size = size.scaled(slide.mpp / card.mpp)
    coarse_size = size.scaled(slide.mpp / (settings.coarse_mpp or card.coarse_mpp))
    tell(f"{slide.name}: first look at {coarse_size.width_px}×{coarse_size.height_px} px")
    coarse_pixels = resize_image(slide.pixels, coarse_size)
    first = base.labels(coarse_pixels, coarse_size)
    coarse = first.mask
    significant, boxes = significant_regions(coarse, settings.significant_share)
    seconds["coarse"] = time.perf_counter() - start
    start = time.perf_counter()

    whole = max(fine_size.height_px, fine_size.width_px) <= settings.refine_whole_px
    if whole:
        regions = [Box.whole(size)]
    else:
        margin_px = round(settings.margin_um / slide.mpp)
        regions = merge_boxes([box.rescaled(coarse_size, size).expanded(margin_px, size) for box in boxes])
    refined = resize_labels(coarse, size).copy()
    confidence, tiles = first.mean_confidence * size.area_px if not regions else 0.0, first.tiles
    fine = Predictor(**{**base.__dict__, "views": settings.views})
    for number, box in enumerate(regions, 1):
        tell(f"{slide.name}: region {number} of {len(regions)}, {box.size.width_px}×{box.size.height_px} px")
        pixels = resize_image(slide.pixels[box.slices], box.size.scaled(slide.mpp / card.mpp))
        found = fine.labels(pixels, box.size)
        refined[box.slices] = found.mask
        confidence += found.mean_confidence * box.size.area_px
        tiles += found.tiles
    seconds["refine"] = time.perf_counter() - start
    start = time.perf_counter()

    mask = clean_mask(refined, slide.mpp, settings.cleanup)
    seconds["cleanup"] = time.perf_counter() - start
    counts = np.bincount(mask.ravel(), minlength=len(TissueClass))
    area = sum(box.size.area_px for box in regions) or size.area_px
    return TissueResult(
        mask=mask,
        crop=bounding_box(regions) if regions else Box.whole(size),
        coarse_mask=coarse,
        significant=significant,
        refined=refined,
        outcome=TissueOutcome.TISSUE if counts[TissueClass.EPIDERMIS] else TissueOutcome.NO_EPIDERMIS,
        epidermis_share=float(counts[TissueClass.EPIDERMIS] / size.area_px),
        tissue_share=float(1 - counts[TissueClass.BACKGROUND] / size.area_px),
        mean_confidence=confidence / area,
        tiles=tiles,
        seconds=seconds,
    )


def significant_regions(coarse: Mask, share: float) -> tuple[npt.NDArray[np.bool_], list[Box]]:
    """Connected regions of epidermis and keratin with at least ``share`` of the largest one's area.

    Args:
        coarse: (h, w) uint8 of :class:`TissueClass`.
        share: 0 to 1.

    Returns:
        (h, w) bool of their pixels, and a box for each, rows first.
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
    return np.isin(pieces, kept), boxes


def merge_boxes(boxes: list[Box]) -> list[Box]:
    """Boxes of which no two overlap and that cover all of ``boxes``: those that overlap are joined into one."""
    merged: list[Box] = []
    for box in boxes:
        joined = True
        while joined:
            joined = False
            for other in merged:
                if (
                    box.top_px < other.bottom_px
                    and other.top_px < box.bottom_px
                    and box.left_px < other.right_px
                    and other.left_px < box.right_px
                ):
                    merged.remove(other)
                    box, joined = bounding_box([box, other]), True
                    break
        merged.append(box)
    return sorted(merged, key=lambda b: (b.top_px, b.left_px))


def bounding_box(boxes: list[Box]) -> Box:
    """The smallest box that covers all of ``boxes``, of which there is at least one."""
    return Box(
        min(box.top_px for box in boxes),
        min(box.left_px for box in boxes),
        max(box.bottom_px for box in boxes),
        max(box.right_px for box in boxes),
    )
