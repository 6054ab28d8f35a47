"""The area of tissue on a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box
from dermatome.imaging.background import background_limit

if TYPE_CHECKING:
    from dermatome.slides.slide import Slide

LOOK_MPP = 4.0
"""Microns per pixel at which tissue is detected, about the size of a nucleus."""


def tissue_mask(slide: Slide) -> npt.NDArray[np.bool_]:
    """(h, w) bool at :data:`LOOK_MPP`, or at the slide's scale if that is coarser: True where anything is stained.

    Stained pixels are darker than the slide's own background (:func:`background_limit`); without background, all pixels
    are. Gaps of less than two pixels are closed, as those between fibres belong to the tissue.
    """
    import cv2

    size = slide.size.scaled(min(1.0, slide.mpp / LOOK_MPP))
    rgb = slide.region(Box.whole(slide.size), size)
    stained = (rgb.min(axis=2) < background_limit(rgb)).view(np.uint8)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    closed: npt.NDArray[np.bool_] = cv2.morphologyEx(stained, cv2.MORPH_CLOSE, disc).astype(bool)
    return closed


def tissue_mm2(slide: Slide) -> float:
    """Area of the slide's tissue, mm²."""
    mask = tissue_mask(slide)
    return float(mask.mean()) * slide.size.area_px * slide.mpp**2 / 1e6
