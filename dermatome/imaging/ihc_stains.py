"""Stain vectors of hematoxylin and DAB, estimated on the tissue of one slide.

Laboratories, chromogens and scanners differ by some degrees from published stain vectors. Macenko's plane gives
hematoxylin well, as every slide has nuclei without DAB. But DAB never occurs alone: brown cells also contain
hematoxylin, and Macenko's end of the plane lies about 6° towards it, which overestimates DAB by 10 to 40 %. So the DAB
vector is rotated until hematoxylin is independent of DAB: among pixels with much DAB, those with more of it have as
much hematoxylin as the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from dermatome.classes import WantedVectors
from dermatome.imaging.background import Background, slide_background
from dermatome.imaging.stain_normalisation import Floats, degrees_between, extreme_directions, tissue_pixels
from dermatome.imaging.stains import STAIN_VECTORS, SWAPPED, Stain
from dermatome.slides.slide import Slide
from dermatome.storage.record import Check, Scalar

_TISSUE_OD, _STAINED_OD = 0.05, 0.15
_MOST_PIXELS = 100_000
_LEAST_PIXELS = 2_000
# With less DAB, or colours that lie closer, errors of DAB reach 100 %: see docs/results.md.
_SOME_DAB_OD, _LEAST_DAB_OD = 0.1, 0.24
_LEAST_DAB_PIXELS = 500
_LEAST_BETWEEN_DEG = 25.0
_MOST_OFF_DEG = 20.0
# With red and blue swapped, each published vector is 11° from the other stain's.
_LEAST_SWAPPED_DEG, _SWAPPED_BACK = 10.0, 0.8
_ROUNDS, _MOST_TURN, _TURNED = 15, 0.1, 1e-3
_UPPER, _BINS, _LEAST_IN_BIN = 0.55, 12, 30
# Below the median, as nuclei contain more hematoxylin, and clefts between cells less of everything.
_PERCENTILES = (25, 35, 45)
_VALUES = {Stain.HEMATOXYLIN: "hematoxylin_rgb", Stain.DAB: "dab_rgb"}
"""Name of each stain's vector in records."""


class VectorSource(StrEnum):
    """Origin of the stain vectors of hematoxylin and DAB."""

    STANDARD = "standard"
    SLIDE = "slide"
    FALLBACK = "fallback"


@dataclass(frozen=True, eq=False)
class StainVectors:
    """The vectors that stains are separated with.

    Attributes:
        source: published vectors by the settings, the slide's own vectors, or published ones as a fallback.
        why: why the slide's own vectors could not be estimated; empty otherwise.
        matrix: (3, 3) optical density of hematoxylin, eosin and DAB (rows) in red, green and blue (columns); eosin's
            is the published one.
    """

    source: VectorSource = VectorSource.STANDARD
    why: str = ""
    matrix: Floats = field(default_factory=STAIN_VECTORS.copy)

    @property
    def values(self) -> dict[str, Scalar]:
        """The values for a record: ``stain_source``, ``hematoxylin_rgb`` and ``dab_rgb``."""
        rgb = {name: ", ".join(f"{part:.3f}" for part in self.matrix[stain]) for stain, name in _VALUES.items()}
        return {"stain_source": self.source.value, **rgb}

    @classmethod
    def matrix_of(cls, values: Mapping[str, object]) -> Floats:
        """The (3, 3) matrix in the :attr:`values` of a record, to 3 decimals; the published one if it has none."""
        found = cls().matrix
        for stain, name in _VALUES.items():
            if isinstance(text := values.get(name), str):
                found[stain] = [float(part) for part in text.split(",")]
        return found

    def check(self) -> Check:
        """Checks that the slide's own vectors were found, if they were requested."""
        text = {
            VectorSource.STANDARD: "Stains are separated with the published colours, as the settings say.",
            VectorSource.SLIDE: "Stains are separated with the slide's own colours.",
            VectorSource.FALLBACK: f"Stains are separated with the published colours, as {self.why}.",
        }[self.source]
        return Check("stain_vectors_found", self.source is not VectorSource.FALLBACK, text, self.values)


def slide_stains(slide: Slide, wanted: WantedVectors) -> tuple[Background, StainVectors]:
    """The background of a slide, and the vectors to separate its stains with: the published ones or its own.

    Colours that look like swapped channels (:func:`dermatome.imaging.stains.why_no_stains`) may be other dyes. If the
    slide's own vectors are requested, their estimate decides.
    """
    background, vectors = slide_background(slide), StainVectors()
    if wanted == "slide" and background.no_stains not in ("", SWAPPED):
        vectors = _fallback(background.no_stains)
    elif wanted == "slide":
        vectors = fit_ihc_slide(slide, background.i0)
        if vectors.source is VectorSource.SLIDE:
            background = replace(background, no_stains="")
        elif vectors.why == SWAPPED:
            background = replace(background, no_stains=SWAPPED)
    return background, vectors


def fit_ihc_slide(slide: Slide, i0: Sequence[float]) -> StainVectors:
    """The stain vectors of hematoxylin and DAB of a slide; ``i0`` is the intensity of its background, (3,)."""
    return fit_ihc_stains(tissue_pixels(slide), i0)


def fit_ihc_stains(pixels: npt.NDArray[np.uint8], i0: Sequence[float]) -> StainVectors:
    """Estimates the stain vectors of hematoxylin and DAB on (N, 3) uint8 RGB pixels.

    ``i0`` is the intensity of the background, (3,).

    Returns:
        The colours; the published ones, and why, if there is too little tissue or DAB, if the two colours are less than
        25° apart (the published ones are 37°), if what is found is more than 20° from hematoxylin or DAB, or if red and
        blue are swapped: that exchanges the two stains nearly, and what is found is then nearer to them once it is
        swapped back.
    """
    density = -np.log10(np.maximum(pixels, 1) / np.asarray(i0))
    density = density[density.mean(axis=1) >= _TISSUE_OD]
    density = density[:: max(1, len(density) // _MOST_PIXELS)]
    stained = density[density.mean(axis=1) >= _STAINED_OD]
    if len(stained) < _LEAST_PIXELS:
        return _fallback("there is too little stained tissue")
    hematoxylin, dab = extreme_directions(stained)
    for _ in range(_ROUNDS):
        amounts = density @ np.linalg.pinv(np.stack([hematoxylin, dab]))
        strong = amounts[amounts[:, 1] >= _SOME_DAB_OD, 1]
        most = np.percentile(strong, 99) if len(strong) >= _LEAST_DAB_PIXELS else 0.0
        if most < _LEAST_DAB_OD:
            return _fallback("there is too little DAB")
        turn = float(np.clip(_slope(amounts, most), -_MOST_TURN, _MOST_TURN))
        dab = dab + turn * hematoxylin
        dab /= np.linalg.norm(dab)
        if abs(turn) < _TURNED:
            break
    if degrees_between(hematoxylin, dab) < _LEAST_BETWEEN_DEG:
        return _fallback("hematoxylin and DAB are too alike, or the tissue has one of them alone")
    found = np.stack([hematoxylin, STAIN_VECTORS[Stain.EOSIN], dab])
    if max(degrees_between(found[stain], STAIN_VECTORS[stain]) for stain in Stain) > _MOST_OFF_DEG:
        return _fallback("the tissue's colours are not those of hematoxylin and DAB")
    back = found[::-1, ::-1]
    if _off(found) > _LEAST_SWAPPED_DEG and _off(back) < _SWAPPED_BACK * _off(found):
        return _fallback(SWAPPED)
    # They get the lengths of the published vectors, so that amounts keep their unit.
    found *= (np.linalg.norm(STAIN_VECTORS, axis=1) / np.linalg.norm(found, axis=1))[:, None]
    return StainVectors(VectorSource.SLIDE, matrix=found)


def _off(found: Floats) -> float:
    """Root of the summed squared angles, degrees, of hematoxylin and DAB in (3, 3) vectors to the published ones."""
    return math.hypot(*(degrees_between(found[stain], STAIN_VECTORS[stain]) for stain in _VALUES))


def _slope(amounts: Floats, most: float) -> float:
    """Slope of hematoxylin over strong DAB: that of its percentiles in bins of DAB."""
    strong = amounts[(amounts[:, 1] >= _UPPER * most) & (amounts[:, 1] <= most)]
    bins = np.minimum((_BINS * (strong[:, 1] / most - _UPPER) / (1 - _UPPER)).astype(int), _BINS - 1)
    points = [
        (np.median(inside[:, 1]), np.percentile(inside[:, 0], _PERCENTILES).mean(), np.sqrt(len(inside)))
        for inside in (strong[bins == number] for number in range(_BINS))
        if len(inside) >= _LEAST_IN_BIN
    ]
    if len(points) < 3:
        return 0.0
    dab, hematoxylin, weight = np.array(points).T
    return float(np.polyfit(dab, hematoxylin, 1, w=weight)[0])


def _fallback(why: str) -> StainVectors:
    return StainVectors(VectorSource.FALLBACK, why)
