"""Random augmented crops of training tiles: position, deformation, rotation, scale and stain."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeFloat

from dermatome.classes import ClassMap, RgbImage
from dermatome.geometry import Size
from dermatome.slides.resize import resize_image, resize_labels
from dermatome.storage.settings_model import SettingsModel


def _field(default: float, description: str) -> Any:
    return Field(default=default, description=description)


class AugmentSettings(SettingsModel):
    """How strongly training crops are changed."""

    scale: float = Field(default=1.3, ge=1, description="The zoom is drawn between 1 / ``scale`` and ``scale``.")
    coarse_share: NonNegativeFloat = _field(
        0.1, "Share of crops at the coarse scale, for the coarse pass over a slide."
    )
    elastic_px: NonNegativeFloat = _field(8.0, "Largest displacement of the elastic deformation, px of the crop.")
    stain: NonNegativeFloat = _field(0.4, "Largest relative change of the optical density of each stain.")
    gamma: NonNegativeFloat = _field(0.0, "Largest absolute logarithm of the exponent of brightness; 0 is no change.")
    contrast: NonNegativeFloat = _field(0.0, "Largest relative change of the spread around the mean colour; 0 is none.")
    brightness: NonNegativeFloat = _field(0.08, "Largest darkening as a share of white; brightening has half of it.")
    tint: NonNegativeFloat = _field(1 / 3, "Largest change of colour per channel, as a share of brightness.")
    blur_px: NonNegativeFloat = _field(1.0, "Largest sigma of the Gaussian blur, px, which one crop in four has.")
    noise: NonNegativeFloat = _field(6.0, "Largest deviation of the noise that one crop in four has, of 255.")

    def strengthened(self, factor: float) -> AugmentSettings:
        """A copy in which every change of colour and shape except the zoom is ``factor`` times as strong."""
        changes = ("elastic_px", "stain", "gamma", "contrast", "brightness", "blur_px", "noise")
        return self.changed(**{name: getattr(self, name) * factor for name in changes})


TileLevels = list[tuple[RgbImage, ClassMap]]
"""A tile at scale 1, 1/2, 1/4, …: (H, W, 3) uint8 image and (H, W) uint8 labels each."""


def tile_levels(image: RgbImage, labels: ClassMap, scale: float, depth: int = 2) -> TileLevels:
    """A tile resized by ``scale``, training pixels per tile pixel, at ``depth`` levels, for averages at all zooms."""
    sizes = [Size(*image.shape[:2]).scaled(scale / 2**level) for level in range(depth)]
    return [(resize_image(image, size), resize_labels(labels, size)) for size in sizes]


def random_crop(
    tile: TileLevels, side_px: int, settings: AugmentSettings, coarse_factor: float, rng: np.random.Generator
) -> tuple[RgbImage, ClassMap]:
    """A square crop at a random place: rotated, deformed, zoomed and restained; mirrored beyond the tile's edges.

    Crops at the coarse scale are ``coarse_factor`` times coarser. All random choices come from ``rng``.

    Returns:
        (side, side, 3) uint8 and (side, side) uint8.
    """
    import cv2

    zoom = float(np.exp(rng.uniform(-1, 1) * np.log(settings.scale)))
    if rng.random() < settings.coarse_share:
        zoom /= coarse_factor
    level = min(len(tile) - 1, max(0, int(np.floor(-np.log2(zoom) + 0.35))))
    image, labels = tile[level]
    step = 1 / (zoom * 2**level)
    rows, columns = positions(image.shape[:2], side_px, step, settings.elastic_px / 2**level, rng)
    crop = cv2.remap(image, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    truth = cv2.remap(labels, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)
    return _restain(crop, settings, rng), truth


def positions(
    shape: tuple[int, ...], side_px: int, step: float, elastic_px: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Position of each pixel of a crop on the tile: (side, side) float32 rows and columns."""
    import cv2

    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.7 else rng.integers(4) * np.pi / 2
    mirror = 1 if rng.random() < 0.5 else -1
    offsets = (np.arange(side_px) - (side_px - 1) / 2) * step
    down, across = np.meshgrid(offsets, offsets * mirror, indexing="ij")
    half = side_px * step / 2
    middle = [
        rng.uniform(min(half, length / 2), max(length - half, length / 2)) - 0.5
        if length > side_px * step
        else length / 2 - 0.5 + rng.uniform(-0.1, 0.1) * length
        for length in shape[:2]
    ]
    rows = middle[0] + np.cos(angle) * down - np.sin(angle) * across
    columns = middle[1] + np.sin(angle) * down + np.cos(angle) * across
    if elastic_px > 0:
        size = (side_px, side_px)
        for positions in (rows, columns):
            coarse = rng.uniform(-1, 1, (5, 5)).astype(np.float32) * elastic_px * rng.random()
            positions += cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)
    return rows.astype(np.float32), columns.astype(np.float32)


# Unit vectors of hematoxylin, eosin and DAB in optical density (Ruifrok and Johnston, 2001). They need not be the
# stains of the slide: changes along plausible directions are enough.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_TO_STAINS = np.linalg.inv(_STAINS)


def _restain(crop: RgbImage, settings: AugmentSettings, rng: np.random.Generator) -> RgbImage:
    """Changes the strength of stains in optical density (Tellez et al., 2018) and the light; adds blur and noise."""
    import cv2

    # Also of all stains together, more often paler than darker, as faint sections are harder to segment.
    strength = np.exp(rng.uniform(-1, 1, 3) * settings.stain) * np.exp(rng.uniform(-1, 0.5) * settings.stain)
    mixing = _TO_STAINS @ np.diag(strength) @ _STAINS
    mixing += rng.uniform(-0.1, 0.1, (3, 3)) * settings.stain
    # The logarithm comes from a table, as pixels have only 256 values.
    density = _DENSITY[crop]
    absorbed = density @ mixing.astype(np.float32)
    if settings.gamma > 0:
        absorbed *= np.float32(np.exp(rng.uniform(-1, 1) * settings.gamma))
    changed = np.exp(-absorbed)
    white = 1 + settings.brightness * (rng.uniform(-1, 0.5) + rng.uniform(-1, 1, 3) * settings.tint)
    out: npt.NDArray[Any] = changed * (255 * white).astype(np.float32)
    if settings.contrast > 0:
        centre = out.mean(axis=(0, 1), dtype=np.float32)
        out = centre + (out - centre) * np.float32(1 + rng.uniform(-1, 1) * settings.contrast)
    if settings.blur_px > 0 and rng.random() < 0.25:
        out = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.3, max(0.31, settings.blur_px))))
    if settings.noise > 0 and rng.random() < 0.25:
        out = out + rng.standard_normal(out.shape, dtype=np.float32) * np.float32(rng.uniform(0, settings.noise))
    finished: RgbImage = np.clip(out, 0, 255).astype(np.uint8)
    return finished


_DENSITY = -np.log(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
