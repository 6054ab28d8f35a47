"""Cleaning a tissue mask: specks and holes go to what surrounds them; nothing that can be tissue is lost."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dermatome.classes import TissueClass
from dermatome.errors import BadSetting

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CleanupSettings:
    """Connected pieces smaller than these areas take the class that most of their border touches.

    Attributes:
        min_epidermis_um2: for epidermis that touches no keratin. A mixed piece of epidermis and keratin is kept whole,
            unless it is smaller than a quarter of this.
        min_keratin_um2: for keratin that touches no epidermis; small, because flakes come off.
        min_dermis_um2: for dermis; below the section of a dermal papilla.
        min_background_um2: for background: vacuoles and small gaps in tissue.
        max_keratin_gap_um2: background up to this area of whose border most is keratin becomes keratin: annotators draw
            the horny layer with the gaps between its lamellae.
        border_share: pieces cut by the image's border count as spurious only below this share of those areas.
    """

    min_epidermis_um2: float = 1000.0
    min_keratin_um2: float = 30.0
    min_dermis_um2: float = 150.0
    min_background_um2: float = 100.0
    max_keratin_gap_um2: float = 2000.0
    border_share: float = 0.25

    def __post_init__(self) -> None:
        """Checks that nothing is negative."""
        if min(*self.min_areas_um2.values(), self.max_keratin_gap_um2, self.border_share) < 0:
            raise BadSetting("A cleanup area is negative: set it to 0 or more.")

    @property
    def min_areas_um2(self) -> dict[TissueClass, float]:
        """The area for each class, in the order in which they are cleaned: holes before islands."""
        return {
            TissueClass.BACKGROUND: self.min_background_um2,
            TissueClass.DERMIS: self.min_dermis_um2,
            TissueClass.KERATIN: self.min_keratin_um2,
            TissueClass.EPIDERMIS: self.min_epidermis_um2,
        }


def clean_mask(mask: Mask, mpp: float, settings: CleanupSettings | None = None) -> Mask:
    """A cleaned copy of ``mask``.

    Args:
        mask: (H, W) uint8 of :class:`TissueClass`.
        mpp: microns per pixel, which turns the settings' areas into pixels.
        settings: the areas.

    Returns:
        (H, W) uint8.
    """
    settings = settings or CleanupSettings()
    cleaned = mask.copy()
    _fill_keratin_gaps(cleaned, settings.max_keratin_gap_um2 / mpp**2)
    for tissue, area_um2 in settings.min_areas_um2.items():
        _absorb_small(cleaned, tissue, area_um2 / mpp**2, settings.border_share)
    return cleaned


def _fill_keratin_gaps(mask: Mask, max_px: float) -> None:
    """Turns background of up to ``max_px`` into keratin, in place, where keratin makes up most of its border."""
    import cv2

    background = (mask == TissueClass.BACKGROUND).view(np.uint8)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(background, connectivity=8)
    for piece in range(1, count):
        if stats[piece, cv2.CC_STAT_AREA] > max_px:
            continue
        around, own, ring = _surroundings(mask, pieces, stats, piece)
        if ring.size and (ring == TissueClass.KERATIN).mean() >= _MOST:
            mask[around][own] = TissueClass.KERATIN


_MOST = 0.7


def _surroundings(
    mask: Mask, pieces: npt.NDArray[np.int32], stats: npt.NDArray[np.int32], piece: int
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_], Mask]:
    """A box around a piece, the piece's pixels in it, and the classes of the pixels that touch the piece."""
    import cv2

    left, top, width, height = (int(v) for v in stats[piece, :4])
    around = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    own = pieces[around] == piece
    grown = cv2.dilate(own.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return around, own, mask[around][grown & ~own]


def _absorb_small(mask: Mask, tissue: TissueClass, min_px: float, border_share: float) -> None:
    """Gives pieces of ``tissue`` below ``min_px`` the class of most of their border, in place, small ones first."""
    import cv2

    count, pieces, stats, _ = cv2.connectedComponentsWithStats((mask == tissue).view(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    height, width = mask.shape
    for piece in sorted(range(1, count), key=lambda p: (areas[p], p)):
        if areas[piece] >= min_px:
            break
        left, top, w, h = (int(v) for v in stats[piece, :4])
        cut = top == 0 or left == 0 or top + h == height or left + w == width
        if cut and areas[piece] >= border_share * min_px:
            continue
        around, own, ring = _surroundings(mask, pieces, stats, piece)
        if ring.size == 0:
            continue
        if _is_mixed(tissue, ring) and areas[piece] >= border_share * min_px:
            continue
        mask[around][own] = np.bincount(ring, minlength=len(TissueClass)).argmax()


def _is_mixed(tissue: TissueClass, ring: Mask) -> bool:
    """Whether a piece of epidermis or keratin touches the other one."""
    partner = {TissueClass.EPIDERMIS: TissueClass.KERATIN, TissueClass.KERATIN: TissueClass.EPIDERMIS}.get(tissue)
    return partner is not None and bool((ring == partner).any())
