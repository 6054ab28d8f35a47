"""Cleans tissue labels: specks and holes take the class around them; what may be true tissue is kept.

Only small pieces are changed, so an image of any size is cleaned in blocks: a block has a margin as wide as the largest
small piece can be long, so every decision is the same as for the whole image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dermatome.classes import ClassMap, TissueClass
from dermatome.geometry import Box, Size
from dermatome.skin.tissue.settings import CleanupSettings


def clean_labels(labels: ClassMap, mpp: float, settings: CleanupSettings | None = None) -> None:
    """Cleans ``labels``, (H, W) uint8, in place."""
    settings = settings or CleanupSettings()
    _fill_keratin_gaps(labels, settings.max_keratin_gap_um2 / mpp**2)
    for tissue, area_um2 in settings.min_areas_um2.items():
        _absorb_small(labels, tissue, area_um2 / mpp**2, settings.border_share)


_BLOCK_PX = 2048


def _blocks(labels: ClassMap, max_px: float) -> Iterator[tuple[ClassMap, Box, tuple[bool, bool, bool, bool]]]:
    """Parts of the image, each with the box of its core in it, and which of its edges (top, left, …) are the image's.

    A piece of up to ``max_px`` that touches the core lies completely within the part, or is cut by the image's edge.
    """
    size, margin = Size(*labels.shape), int(max_px) + 2
    for own in Box.whole(size).blocks(_BLOCK_PX):
        seen = own.expanded(margin, size)
        rims = seen.top_px == 0, seen.left_px == 0, seen.bottom_px == size.height_px, seen.right_px == size.width_px
        yield labels[seen.slices], own.within(seen), rims


def _pieces(
    part: ClassMap, own: Box, tissue: TissueClass
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], list[int]]:
    """Connected pieces of a class in a part, their statistics, and the numbers of those that touch the core."""
    import cv2

    count, pieces, stats, _ = cv2.connectedComponentsWithStats((part == tissue).view(np.uint8), connectivity=8)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    near = (left < own.right_px) & (right > own.left_px) & (top < own.bottom_px) & (bottom > own.top_px)
    near[:1] = False
    return pieces, stats, [int(piece) for piece in np.flatnonzero(near[:count])]


def _fill_keratin_gaps(labels: ClassMap, max_px: float) -> None:
    """Turns background pieces of up to ``max_px`` into keratin, in place, if most of their border is keratin."""
    import cv2

    for part, own, _ in _blocks(labels, max_px):
        pieces, stats, near = _pieces(part, own, TissueClass.BACKGROUND)
        for piece in near:
            if stats[piece, cv2.CC_STAT_AREA] > max_px:
                continue
            around, itself, ring = _surroundings(part, pieces, stats, piece)
            if ring.size and (ring == TissueClass.KERATIN).mean() >= _MOST:
                part[around][itself] = TissueClass.KERATIN


_MOST = 0.7


def _surroundings(
    mask: ClassMap, pieces: npt.NDArray[np.int32], stats: npt.NDArray[np.int32], piece: int
) -> tuple[tuple[slice, slice], npt.NDArray[np.bool_], ClassMap]:
    """A box around a piece, (h, w) bool of its pixels in the box, and the classes of the pixels that touch it."""
    import cv2

    left, top, width, height = (int(v) for v in stats[piece, :4])
    around = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
    own = pieces[around] == piece
    grown = cv2.dilate(own.view(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return around, own, mask[around][grown & ~own]


def _absorb_small(labels: ClassMap, tissue: TissueClass, min_px: float, border_share: float) -> None:
    """Gives pieces of ``tissue`` smaller than ``min_px`` the class of most of their border, in place.

    Pieces of one class never touch each other, so their order does not matter.
    """
    import cv2

    for part, own, (at_top, at_left, at_bottom, at_right) in _blocks(labels, min_px):
        pieces, stats, near = _pieces(part, own, tissue)
        height, width = part.shape
        for piece in near:
            area = stats[piece, cv2.CC_STAT_AREA]
            if area >= min_px:
                continue
            left, top, w, h = (int(v) for v in stats[piece, :4])
            cut = (at_top and top == 0) or (at_left and left == 0)
            cut |= (at_bottom and top + h == height) or (at_right and left + w == width)
            around, itself, ring = _surroundings(part, pieces, stats, piece)
            # A piece cut by the image's edge, or one of epidermis at keratin (or vice versa), may be true tissue.
            mixed = tissue in _PARTNERS and bool((ring == _PARTNERS[tissue]).any())
            if ring.size and not ((cut or mixed) and area >= border_share * min_px):
                part[around][itself] = np.bincount(ring, minlength=len(TissueClass)).argmax()


_PARTNERS = {TissueClass.EPIDERMIS: TissueClass.KERATIN, TissueClass.KERATIN: TissueClass.EPIDERMIS}
