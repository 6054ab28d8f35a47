"""Synthetic skin with known ground truth: cores with epidermis, rete ridges, keratin, dermis and single nuclei.

Shapes are drawn in microns (:mod:`dermatome.synthetic.skin_shapes`). Stains are mixed as they absorb light: the optical
densities of hematoxylin, eosin and DAB of each pixel are known and combined with Ruifrok's vectors. One seed gives one
piece of tissue: its H&E section and its IHC sections of every pattern share shapes and nuclei.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.classes import BoolMap, Floats, Instances, RgbImage, StainingPattern, TissueClass
from dermatome.imaging.stains import STAIN_VECTORS
from dermatome.reports.html import encoded
from dermatome.slides.slide import MppSource, Slide
from dermatome.storage.files import sha256_bytes
from dermatome.synthetic.skin_shapes import Cells, ToyTissue, draw_tissue, place_nuclei, smooth_noise

Pixel = TypeVar("Pixel", bound=np.generic)


class ToyStain(StrEnum):
    """Stain of a synthetic section."""

    IHC = "ihc"
    HE = "he"


@dataclass(frozen=True)
class ToySlide:
    """A synthetic slide and its ground truth; arrays share height and width.

    Attributes:
        slide: pixels, scale and name.
        pattern: which cells hold DAB; meaningless for H&E.
        mask: (H, W) uint8, :class:`TissueClass`. Cracks in the keratin count as keratin, as an annotator draws it.
        instances: (H, W) int32, nuclei of the epidermis 1..N.
        dermal_nuclei: (H, W) int32, nuclei of the dermis 1..M.
        basal: (H, W) bool, cells of the basal row including cytoplasm.
        layers: (H, W) uint16, 0 outside the epidermis, 1 next to the dermis; a layer is one mean nucleus thick.
        densities: (H, W, 3) float32, decadic optical density of hematoxylin, eosin and DAB before noise; one sixth of
            it is what :func:`dermatome.imaging.stains.separate_stains` returns.
        nucleus_diameter_px: mean equivalent diameter of ``instances``.
    """

    slide: Slide
    pattern: StainingPattern
    mask: npt.NDArray[np.uint8]
    instances: Instances
    dermal_nuclei: Instances
    basal: BoolMap
    layers: npt.NDArray[np.uint16]
    densities: Floats
    nucleus_diameter_px: float

    def jpeg(self, quality: int = 92) -> bytes:
        """Encodes the slide as a JPEG file, as HPA serves it."""
        return encoded(self.slide.whole(), "jpeg", quality=quality)


def toy_slide(
    seed: int,
    pattern: StainingPattern = StainingPattern.WHOLE,
    *,
    size_px: int = 1024,
    mpp: float = 0.5,
    stain: ToyStain = ToyStain.IHC,
    island: bool | None = None,
    strength: float | None = None,
    name: str | None = None,
) -> ToySlide:
    """Draws one synthetic slide.

    Args:
        seed: seed for shapes, nuclei and colours; the same seed gives the same tissue for every pattern and stain.
        pattern: which epidermal cells hold DAB.
        size_px: height and width, px; the core fills the slide. At 0.5 mpp, all classes need at least 400 px.
        mpp: microns per pixel of the slide.
        stain: IHC (hematoxylin and DAB) or H&E (hematoxylin and eosin).
        island: whether a piece of epidermis lies apart in the dermis, as in a tangential cut; None: chosen by seed.
        strength: decadic optical density of DAB in a stained cell; None: chosen by seed between 0.35 and 0.8.
        name: name of the slide; by default built from stain, pattern and seed.
    """
    geometry, chemistry = (np.random.default_rng([seed, part]) for part in range(2))
    tissue = draw_tissue(geometry, size_px, mpp, island)
    cells = place_nuclei(geometry, tissue, mpp)
    densities = _densities(chemistry, tissue, cells, mpp, pattern, stain, strength)
    pixels = photograph(chemistry, densities, mpp)
    # The tissue is turned last, so that it lies in every orientation.
    turns, flipped = int(geometry.integers(4)), bool(geometry.integers(2))

    def turned(array: npt.NDArray[Pixel]) -> npt.NDArray[Pixel]:
        array = np.rot90(array, turns)
        return np.ascontiguousarray(array[:, ::-1] if flipped else array)

    epidermis = tissue.mask == TissueClass.EPIDERMIS
    areas = np.bincount(cells.epidermal.ravel())[1:]
    diameter_px = float(np.sqrt(4 * areas / np.pi).mean()) if areas.size else 9 / mpp
    layers = np.where(epidermis, tissue.from_dermis_px // diameter_px + 1, 0).astype(np.uint16)
    pixels = turned(pixels)
    return ToySlide(
        slide=drawn_slide(name or f"toy-{stain}-{pattern}-{seed}", pixels, mpp),
        pattern=pattern,
        mask=turned(tissue.mask),
        instances=turned(cells.epidermal),
        dermal_nuclei=turned(cells.dermal),
        basal=turned(epidermis & cells.is_basal[cells.territory]),
        layers=turned(layers),
        densities=turned(densities),
        nucleus_diameter_px=diameter_px,
    )


def _densities(
    rng: np.random.Generator,
    tissue: ToyTissue,
    cells: Cells,
    mpp: float,
    pattern: StainingPattern,
    stain: ToyStain,
    strength: float | None,
) -> Floats:
    """Decadic optical density of hematoxylin, eosin and DAB, (H, W, 3) float32."""
    size = tissue.mask.shape[0]
    # One generator draws the same numbers for every stain and pattern, so that sections of one seed match.
    depth = rng.uniform(0.8, 1.2)
    chosen_strength = rng.uniform(0.35, 0.8)
    nuclear_share = rng.uniform(0.25, 0.9)
    grain = smooth_noise(rng, size, 0.8 / mpp)
    cloud = smooth_noise(rng, size, 25 / mpp)
    count = len(cells.is_basal)
    cell_variation = np.exp(rng.normal(0, 0.22, count)).astype(np.float32)
    nucleus_depth = np.clip(rng.normal(1, 0.17, count), 0.55, 1.5).astype(np.float32)
    dermal_depth = np.clip(rng.normal(1, 0.15, int(cells.dermal.max()) + 1), 0.6, 1.4).astype(np.float32)

    # Per class: background, dermis, epidermis, keratin.
    he = stain is ToyStain.HE
    h_of_class = np.array([0, 0.07, 0.24, 0.07] if he else [0, 0.055, 0.17, 0.06], dtype=np.float32) * depth
    e_of_class = np.array([0, 0.22, 0.20, 0.33] if he else [0, 0.04, 0.035, 0.035], dtype=np.float32)
    dab_of_class = np.array([0, 0, 0, 0] if he else [0, 0.035, 0.025, 0.085], dtype=np.float32)
    ground = (1 + 0.12 * cloud + 0.06 * grain).clip(0.2)
    texture = tissue.texture * ground
    hematoxylin, eosin, dab = (table[tissue.mask] * texture for table in (h_of_class, e_of_class, dab_of_class))

    epidermis = tissue.mask == TissueClass.EPIDERMIS
    nuclei = cells.epidermal > 0
    gap = 1 - 0.35 * cells.border  # pale clefts between cells
    hematoxylin[epidermis] *= gap[epidermis]
    full = 0.68 if he else 0.55
    chromatin = (1 + 0.10 * grain + 0.15 * cells.rim).clip(0.4)
    hematoxylin[nuclei] = (full * depth * nucleus_depth[cells.epidermal] * chromatin)[nuclei]
    in_dermis = cells.dermal > 0
    hematoxylin[in_dermis] = (full * depth * 0.95 * dermal_depth[cells.dermal] * chromatin)[in_dermis]

    if not he and pattern is not StainingPattern.NEGATIVE:
        stained = {
            StainingPattern.BASAL: cells.is_basal,
            StainingPattern.SUPRABASAL: ~cells.is_basal,
            StainingPattern.WHOLE: np.ones(count, dtype=bool),
        }[pattern].copy()
        stained[0] = False
        of_cell = np.where(stained, cell_variation * (strength or chosen_strength), 0).astype(np.float32)
        amount = of_cell[cells.territory] * np.where(nuclei, nuclear_share, gap) * (1 + 0.12 * grain)
        dab += np.where(epidermis, amount, 0)
    stack = np.stack([hematoxylin, eosin, dab], axis=-1).astype(np.float32)
    blurred = cv2.GaussianBlur(stack, (0, 0), max(0.3, 0.45 / mpp))
    return np.asarray(blurred.clip(0), dtype=np.float32)


def drawn_slide(name: str, pixels: RgbImage, mpp: float) -> Slide:
    """The slide of a drawn image."""
    return Slide(name, pixels, mpp, MppSource.DECLARED, sha256_bytes(pixels.tobytes()))


def photograph(rng: np.random.Generator, densities: Floats, mpp: float) -> RgbImage:
    """Renders stained tissue as a camera sees it: (S, S, 3) uint8, with varied lamp and dyes and with noise.

    ``densities`` are (S, S, 3), decadic optical density of hematoxylin, eosin and DAB.
    """
    vectors = STAIN_VECTORS * (1 + rng.normal(0, 0.025, STAIN_VECTORS.shape))
    lamp = rng.uniform(0.93, 0.98) * (1 + rng.normal(0, 0.006, 3))
    light = lamp * np.power(10.0, -(densities @ vectors.astype(np.float32)))
    size = densities.shape[0]
    light *= (1 + 0.006 * smooth_noise(rng, size, 80 / mpp))[..., None]
    # Shot noise, slightly blurred as a Bayer sensor and JPEG leave it.
    noise = cv2.GaussianBlur(rng.standard_normal((size, size, 3), dtype=np.float32), (0, 0), 0.6)
    light += 0.016 * noise * np.sqrt(light)
    return np.asarray(np.rint(light.clip(0, 1) * 255), dtype=np.uint8)
