"""Stain normalisation of H&E: Macenko's fit, once for each slide on its tissue, and the colour change that follows.

Macenko et al. 2009 ("A method for normalizing histology slides for quantitative analysis"): the optical densities of
tissue lie in a plane, and its extreme directions are the two stains. Here the fit is checked, and a slide with a
failed fit keeps its colours; the change preserves what lies outside the plane, and the colour of the background.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage
from dermatome.geometry import Box, Size
from dermatome.imaging.background import background_limit
from dermatome.slides.slide import Slide
from dermatome.storage.record import Check, Scalar

Floats = npt.NDArray[np.float64]

REFERENCE_VECTORS = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
"""Rows: hematoxylin, eosin; columns: red, green, blue. Stain vectors of the reference in Macenko's code."""
REFERENCE_STRENGTHS = np.array([1.9705, 1.0308]) / np.log(10)
"""99th percentiles of the amounts of both stains in the reference, decadic optical density."""

AS_IT_IS = "as it is"
"""In records and manifests, replaces an outcome if no normalisation was requested."""

_LEAST_DENSITY = 0.15
_PERCENTILE = 1.0
_LEAST_PIXELS = 2_000
_LEAST_BETWEEN_DEG = 8.0
_MOST_OFF_DEG = 18.0
_MOST_TIMES = 4.0
# Minimum difference between hematoxylin and eosin in absorption of red minus green: 0.42 in the reference. If purple
# ground and brown nuclei form the plane, as in some images of MoNuSAC, it is near 0, and the change would swap colours.
_LEAST_REDDER = 0.2

_LOOK_PX = 1024
_SPOTS = 48
_SPOT_UM = 64.0
_SPOT_PX = 128


class StainOutcome(StrEnum):
    """Whether a slide's stains could be estimated; only in the first case are its colours changed."""

    FITTED = "fitted"
    LITTLE_TISSUE = "little_tissue"
    ONE_STAIN = "one_stain"
    NOT_HE = "not_he"


_WHY = {
    StainOutcome.FITTED: "Hematoxylin and eosin were separated.",
    StainOutcome.LITTLE_TISSUE: "There is too little stained tissue to fit stains on, so the colours are left.",
    StainOutcome.ONE_STAIN: "The tissue has one colour, which is not two stains, so the colours are left.",
    StainOutcome.NOT_HE: "The two colours found are not those of hematoxylin and eosin, so the colours are left.",
}


@dataclass(frozen=True, eq=False)
class StainFit:
    """The stains of one slide.

    Attributes:
        outcome: whether the stains were estimated.
        vectors: (2, 3) unit vectors of hematoxylin and eosin in optical density of red, green and blue; those found,
            even if the fit failed, or the reference's if nothing was found.
        strengths: (2,) 99th percentiles of their amounts, decadic optical density.
    """

    outcome: StainOutcome
    vectors: Floats
    strengths: Floats

    def normalise(self, rgb: RgbImage) -> RgbImage:
        """(H, W, 3) uint8 as if stained like the reference; unchanged if the fit failed."""
        if self.outcome is not StainOutcome.FITTED:
            return rgb
        own = _with_third(self.vectors) * np.array([*self.strengths, 1.0])[:, None]
        wanted = _with_third(REFERENCE_VECTORS) * np.array([*REFERENCE_STRENGTHS, 1.0])[:, None]
        change = (np.linalg.inv(own) @ wanted).astype(np.float32)  # a pixel's densities as a row are multiplied by this
        density = _DENSITY[rgb] @ change
        light = np.exp(-np.float32(np.log(10)) * density)
        normal: RgbImage = np.rint(light.clip(0, 1) * 255).astype(np.uint8)
        return normal

    def check(self) -> Check:
        """The outcome as a check of the slide."""
        values: dict[str, Scalar] = {"outcome": str(self.outcome)}
        for stain, vector, strength in zip(("hematoxylin", "eosin"), self.vectors, self.strengths, strict=True):
            values[f"{stain}_rgb"] = ", ".join(f"{part:.3f}" for part in vector)
            values[f"{stain}_strength"] = float(strength)
        return Check("stain_fit", self.outcome is StainOutcome.FITTED, _WHY[self.outcome], values)


def fit_slide(slide: Slide) -> StainFit:
    """The stains of a slide; see :func:`tissue_pixels`."""
    return fit_stains(tissue_pixels(slide))


def tissue_pixels(slide: Slide) -> npt.NDArray[np.uint8]:
    """(N, 3) uint8: pixels of tissue from all over a slide, at 0.5 µm per pixel or the slide's coarser scale."""
    look = slide.overview(_LOOK_PX)
    rows, columns = np.nonzero(look.min(axis=2) < background_limit(look))
    if not rows.size:
        return np.zeros((0, 3), np.uint8)
    factor = slide.size.height_px / look.shape[0]
    half = max(1, round(_SPOT_UM / slide.mpp / 2))
    chosen = np.unique(np.linspace(0, rows.size - 1, _SPOTS).astype(int))
    pixels, seen = [], set()
    for row, column in zip(rows[chosen] * factor, columns[chosen] * factor, strict=True):
        # Snapped to a grid, so that no part of a small image is read repeatedly.
        top, left = int(row) // (2 * half) * 2 * half, int(column) // (2 * half) * 2 * half
        if (top, left) in seen:
            continue
        seen.add((top, left))
        box = Box(top, left, min(top + 2 * half, slide.size.height_px), min(left + 2 * half, slide.size.width_px))
        shrunk = min(1.0, _SPOT_PX / (2 * half))
        pixels.append(slide.region(box, Size(box.size.height_px, box.size.width_px).scaled(shrunk)).reshape(-1, 3))
    return np.concatenate(pixels)


def fit_stains(pixels: npt.NDArray[np.uint8]) -> StainFit:
    """Macenko's fit to (N, 3) uint8 pixels."""
    density = _DENSITY[pixels].astype(np.float64)
    stained = density[density.mean(axis=1) >= _LEAST_DENSITY]
    if len(stained) < _LEAST_PIXELS:
        return StainFit(StainOutcome.LITTLE_TISSUE, REFERENCE_VECTORS, REFERENCE_STRENGTHS)
    vectors = extreme_directions(stained)
    if degrees_between(vectors[0], vectors[1]) < _LEAST_BETWEEN_DEG:
        return StainFit(StainOutcome.ONE_STAIN, vectors, REFERENCE_STRENGTHS)
    amounts = stained @ np.linalg.pinv(vectors)
    strengths = np.percentile(amounts, 99, axis=0)
    off = max(degrees_between(own, wanted) for own, wanted in zip(vectors, REFERENCE_VECTORS, strict=True))
    times = np.maximum(strengths, 1e-6) / REFERENCE_STRENGTHS
    redder = (vectors[0, 0] - vectors[0, 1]) - (vectors[1, 0] - vectors[1, 1])
    if (
        off > _MOST_OFF_DEG
        or redder < _LEAST_REDDER
        or (vectors < -0.05).any()
        or max(times.max(), 1 / times.min()) > _MOST_TIMES
    ):
        return StainFit(StainOutcome.NOT_HE, vectors, strengths)
    return StainFit(StainOutcome.FITTED, vectors, strengths)


def extreme_directions(density: Floats) -> Floats:
    """The two extreme angles of densities (N, 3) in their plane (Macenko et al. 2009).

    Returns:
        (2, 3) unit vectors; the first absorbs more red, as hematoxylin does.
    """
    _, axes = np.linalg.eigh(np.cov(density.T))
    plane = axes[:, :0:-1]  # (3, 2), the two directions of largest variance
    plane = plane * np.where(plane.sum(axis=0) < 0, -1, 1)
    along = density @ plane
    angles = np.arctan2(along[:, 1], along[:, 0])
    # Pixels near 180° would count at both ends, so angles are measured from their mean.
    middle = np.arctan2(np.sin(angles).mean(), np.cos(angles).mean())
    turned = np.mod(angles - middle + np.pi, 2 * np.pi) - np.pi
    ends = np.percentile(turned, [_PERCENTILE, 100 - _PERCENTILE]) + middle
    vectors = np.stack([plane @ (np.cos(end), np.sin(end)) for end in ends])
    vectors = vectors * np.where(vectors.sum(axis=1) < 0, -1, 1)[:, None]
    vectors = vectors[np.argsort(-vectors[:, 0])]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
"""Decadic optical density of each 8-bit value; white is 0."""


def _with_third(vectors: Floats) -> Floats:
    """(3, 3): both vectors, and the direction perpendicular to them."""
    both = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    third = np.cross(both[0], both[1])
    return np.stack([*both, third / np.linalg.norm(third)])


def degrees_between(one: Floats, other: Floats) -> float:
    """The angle between two vectors, degrees."""
    cosine = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
