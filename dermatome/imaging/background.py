"""Detection of background, where a slide has no tissue, and of the intensity of its light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage
from dermatome.geometry import Size
from dermatome.imaging.stains import why_no_stains
from dermatome.slides.resize import resize_image
from dermatome.storage.record import Check, Scalar

if TYPE_CHECKING:
    from dermatome.slides.slide import Slide

# Background is bright, grey and flat: on HPA cores its darkest channel is at least 230, channels differ by 0 to 5, and
# grey varies by 1. The palest collagen and keratin differ far more in at least one of the three.
_DARKEST = 215
_COLOUR = 8
_GREY_RANGE = 10
_BLOCK_PX = 4

# Limits for a whole slide: its light may be dim or tinted, but neighbouring pixels of background are alike.
_LEAST_LIGHT = 100
_LEAST_NEUTRAL = 180
_STEP = 6
_FLAT_PX = 5
_NEAR = 3
_LEAST_SHARE = 0.01
_MOST_DARK = 64
_CLIPPED = 254.0
_SAMPLED_PX = 1_000_000
_INVERTED_SHARE = 0.05
_DARKER = 0.9
# Middle of the usual intensity of light: 236 to 250 on HPA's and synthetic cores. Augmentation varies it by 8 %.
_USUAL_LIGHT = 243.0
# A background with a larger share of the slide may be tissue of one colour.
_MOST_SHARE = 0.98
_LIGHT_MPP = 2.0
_LIGHT_PX = 2048


def is_background(tile: RgbImage) -> bool:
    """Whether a tile shows only background, so that its class is known without the network.

    The test uses means over blocks of 4 × 4 px, which suppresses camera noise; every block must be bright and
    colourless, and all must be nearly alike. One pale fibre, shadow or stain makes the result False.
    """
    import cv2

    height, width = tile.shape[:2]
    # A few pixels are enough to recognize almost every tile of tissue.
    if int(tile[:: max(1, height // 16), :: max(1, width // 16)].min()) < _DARKEST - 40:
        return False
    small = resize_image(tile, Size(max(1, height // _BLOCK_PX), max(1, width // _BLOCK_PX)))
    red, green, blue = cv2.split(small)
    darkest, brightest = cv2.min(cv2.min(red, green), blue), cv2.max(cv2.max(red, green), blue)
    if int(darkest.min()) < _DARKEST or int((brightest - darkest).max()) > _COLOUR:
        return False
    return int(darkest.max()) - int(darkest.min()) <= _GREY_RANGE


class I0Source(StrEnum):
    """Origin of the intensity of unstained light."""

    BACKGROUND = "background"
    FALLBACK = "fallback"


@dataclass(frozen=True)
class Background:
    """The light of a slide where nothing absorbs it.

    Attributes:
        i0: Red, green and blue intensity of the background, 0–255; white if ``source`` is the fallback.
        source: Whether ``i0`` was measured on the slide's own background.
        share: Share of the overview that is background, 0–1.
        no_stains: Why the slide's optical densities are not those of stains; empty if they are.
    """

    i0: tuple[float, float, float] = (255.0, 255.0, 255.0)
    source: I0Source = I0Source.FALLBACK
    share: float = 0.0
    no_stains: str = ""

    @property
    def values(self) -> dict[str, Scalar]:
        """The values for a record: ``i0_red``, ``i0_green``, ``i0_blue`` and ``i0_source``."""
        return {f"i0_{name}": value for name, value in zip(("red", "green", "blue"), self.i0, strict=True)} | {
            "i0_source": self.source.value
        }

    def relight(self, rgb: RgbImage) -> RgbImage:
        """Scales (H, W, 3) uint8 to the usual intensity of light, for a network; unchanged if ``i0`` is a fallback.

        Without this, 4 % less exposure changed masks so much that the H-score of a core changed by 3.
        """
        import cv2

        if self.source is I0Source.FALLBACK or self.share > _MOST_SHARE:
            return rgb
        table = np.arange(256)[:, None] * (_USUAL_LIGHT / np.array(self.i0))
        return np.asarray(cv2.LUT(rgb, np.rint(table.clip(0, 255)).astype(np.uint8)[None]), dtype=np.uint8)

    def check(self) -> Check:
        """Checks that the slide has enough background to measure its light."""
        found = self.source is I0Source.BACKGROUND
        colour = ", ".join(f"{value:.1f}" for value in self.i0)
        text = f"The light is that of the slide's background, {self.share:.0%} of it: {colour}."
        if not found:
            text = "The slide has too little background to measure its light, so white (255) is assumed."
        return Check("background_found", found, text, {"background_share": self.share, **self.values})

    def clipped_check(self) -> Check:
        """Checks that the background is not clipped: if it is white, the light may have been brighter."""
        channels = [name for name, value in zip(("red", "green", "blue"), self.i0, strict=True) if value >= _CLIPPED]
        clipped = self.source is I0Source.BACKGROUND and bool(channels)
        text = "The light of the background is below white, so that densities are measured against it."
        if clipped:
            text = (
                f"The background is white (255) in {', '.join(channels)}: if the light was brighter, densities are too "
                "low; scan with less exposure to measure them."
            )
        elif self.source is I0Source.FALLBACK:
            text = "There is too little background to see whether it is clipped."
        return Check("light_not_clipped", not clipped, text, self.values)

    def stains_check(self) -> Check:
        """Checks that the slide's colours can be those of stains."""
        text = "The colours of the tissue can be those of hematoxylin and DAB."
        if self.no_stains:
            text = f"There are no stains to measure, as {self.no_stains}: DAB and hematoxylin are null."
        return Check("stains_present", not self.no_stains, text)


def slide_light(slide: Slide) -> Background:
    """The background of a slide as :func:`slide_background` has it, but not whether its colours are those of stains."""
    return find_background(_light_overview(slide))[0]


def slide_background(slide: Slide) -> Background:
    """The background of a slide, measured on an overview of at most 2048 px a side and not finer than 2 µm."""
    rgb = _light_overview(slide)
    background, _ = find_background(rgb)
    dark = _flat(rgb) & (rgb.max(axis=2) <= _MOST_DARK)
    if background.source is I0Source.FALLBACK and dark.mean() >= _INVERTED_SHARE:
        return replace(background, no_stains="the image is inverted: its background is dark")
    return replace(background, no_stains=why_no_stains(rgb, background.i0))


def _light_overview(slide: Slide) -> RgbImage:
    longest_px = max(slide.size.height_px, slide.size.width_px)
    return slide.overview(max(1, min(_LIGHT_PX, round(longest_px * slide.mpp / _LIGHT_MPP))))


def find_background(rgb: RgbImage) -> tuple[Background, npt.NDArray[np.bool_]]:
    """Finds the background of a slide, by its brightness, and the intensity of its light.

    Background is flat over several pixels, and it is the brightest flat colour with at least 1 % of the overview. It
    may have the tint of the lamp. Pure white beside nearly white background is a region that was not scanned, and is
    not measured.

    ``rgb`` is an overview of a few µm per pixel, (h, w, 3) uint8.

    Returns:
        The background, and (h, w) bool, its pixels; none if there is too little.
    """
    import cv2

    channels = cv2.split(rgb)  # several times as fast as numpy's sums and minima over the last axis
    darkest = cv2.min(cv2.min(channels[0], channels[1]), channels[2])
    flat = _flat(rgb) & (darkest >= _LEAST_LIGHT)
    least_px = max(1.0, _LEAST_SHARE * flat.size)
    scanned = flat & (darkest < 255)
    light = _brightest([channel[scanned] for channel in channels], least_px)
    if light is None or not _is_neutral(light):
        light = _brightest([channel[flat] for channel in channels], least_px)
    nothing = Background(), np.zeros_like(flat)
    if light is None:
        return nothing
    # Dim edges of the slide are background, too.
    mask = flat
    for channel, least in zip(channels, _DARKER * light, strict=True):
        mask &= channel >= math.ceil(least)
    if mask.all() and not _is_neutral(light):
        return nothing  # a single tinted colour may be tissue
    red, green, blue = (float(value) for value in light)
    return Background((red, green, blue), I0Source.BACKGROUND, float(mask.mean())), mask


def _flat(rgb: RgbImage) -> npt.NDArray[np.bool_]:
    """(h, w) bool: pixels that are as bright as their neighbours, in areas of several pixels per side."""
    import cv2

    around = np.ones((3, 3), np.uint8)
    flat = np.ones(rgb.shape[:2], np.bool_)
    for channel in cv2.split(rgb):  # channel by channel, as an overview may have 40 megapixels
        flat &= cv2.dilate(channel, around) - cv2.erode(channel, around) <= _STEP
    square = np.ones((_FLAT_PX, _FLAT_PX), np.uint8)
    return np.asarray(cv2.morphologyEx(flat.view(np.uint8), cv2.MORPH_OPEN, square), dtype=np.bool_)


def _is_neutral(light: npt.NDArray[np.float64]) -> bool:
    return bool(light.min() >= _LEAST_NEUTRAL and np.ptp(light) <= _COLOUR)


def _brightest(channels: Sequence[npt.NDArray[np.uint8]], least_px: float) -> npt.NDArray[np.float64] | None:
    """(3,): mean colour of the brightest mode of pixels that holds ``least_px``; None if none does.

    ``channels`` are red, green and blue of the pixels, (N,) each.
    """
    every = max(1, len(channels[0]) // _SAMPLED_PX)
    channels, least_px = [channel[::every] for channel in channels], least_px / every
    grey = sum((channel.astype(np.int16) for channel in channels), np.int16(0)) // 3
    held = np.convolve(np.bincount(grey, minlength=256), np.ones(2 * _NEAR + 1, int), "same")
    modes = np.flatnonzero(held >= least_px)
    if not modes.size:
        return None
    peak = int(modes[-1])
    while peak and held[peak - 1] >= held[peak]:
        peak -= 1
    near = [channel[np.abs(grey - peak) <= _NEAR] for channel in channels]
    typical = np.logical_and.reduce([np.abs(channel - np.median(channel)) <= 2 * _NEAR for channel in near])
    return np.array([channel[typical].mean() for channel in near])


def background_limit(rgb: RgbImage) -> int:
    """Intensity below which a pixel's darkest channel counts as stained: 0.9 times that of the slide's background.

    ``rgb`` is an overview of a few µm per pixel, (h, w, 3) uint8.

    Returns:
        An intensity, 0–255, or 256 if there is no background, so that everything is tissue.
    """
    _, mask = find_background(rgb)
    if not mask.any():
        return 256
    # Of the darkest background: a slide may have darker edges, or white regions that were not scanned.
    return round(_DARKER * float(np.percentile(rgb[mask].min(axis=1), 5)))
