"""Stain separation: the amounts of hematoxylin, eosin and DAB in each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage

# Rows: hematoxylin, eosin, DAB; columns: red, green, blue. Ruifrok and Johnston 2001 ("Quantification of
# histochemical staining by color deconvolution"), with the values of scikit-image's `rgb_from_hed`.
STAIN_VECTORS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])

# One unit of `separate_stains` is this much decadic optical density: scikit-image divides by log(1e-6).
DECADIC_OD_PER_UNIT = 6.0

_BAND_ROWS = 256

_TISSUE_OD = 0.12
_LEAST_TISSUE_PX = 50
# On tissue of IHC slides, the channels' densities differ by 0.25 to 0.55 of their length at this percentile.
_GREY_SPREAD, _GREY_PERCENTILE = 0.06, 90
_CONSTANT = 2
"""Range of values of a channel without stain: noise around one value."""
# In dense tissue of real slides, two channels are within two values of each other in at most 0.38 of the pixels; where
# one is a copy of another, in at least 0.53 after JPEG compression.
_SAME_VALUES, _SAME_SHARE = 2, 0.47
# Real slides are at most 1.5 times as far from hematoxylin and DAB as the same slides with two channels swapped.
_SWAPPED = 1.75
_LEAST_OFF = 0.04
# Neither stain absorbs less green than both red and blue. On real slides, hardly any pixel does so by this share of its
# density (at most 0.2 %); with green swapped, at least 4 % do.
_LEAST_GREEN, _MOST_WITHOUT_GREEN = 0.08, 0.03
# Hematoxylin absorbs more red and green than DAB, which absorbs blue. Where dense tissue has both, the share of green
# increases with red minus blue. Their correlation is at least 0.4 on real and synthetic slides.
_DENSE_OD, _COLOURED, _COLOURED_PERCENTILES, _FALLS = 0.2, 0.1, (2, 98), -0.3
SWAPPED = "two colour channels are swapped"
"""A reason of :func:`why_no_stains`; dyes with colours far from the published ones may look the same."""
RED_AND_BLUE_SWAPPED = "red and blue are swapped"
"""Another reason; dyes whose vectors are turned by 15° do not look like this."""


class Stain(IntEnum):
    """A stain; its number is its row in :data:`STAIN_VECTORS`."""

    HEMATOXYLIN = 0
    EOSIN = 1
    DAB = 2


def separate_stains(
    rgb: RgbImage,
    stains: Sequence[Stain] = tuple(Stain),
    i0: Sequence[float] = (255.0, 255.0, 255.0),
    vectors: npt.NDArray[np.float64] = STAIN_VECTORS,
) -> npt.NDArray[np.float32]:
    """Optical density of each stain by lookup tables; with white as ``i0``, the same as ``skimage.color.rgb2hed``.

    An 8-bit channel has 256 values, so logarithm and matrix become nine small tables. Only the requested stains are
    computed, in float32 and in bands of rows. On 3000² pixels this is several times faster than ``rgb2hed``
    and needs little more memory than its result.

    ``i0`` is the intensity of unstained light; see :func:`dermatome.imaging.background.slide_background`.

    Returns:
        (H, W, len(stains)) float32, not negative. The unit is scikit-image's: decadic optical density divided by
        6 (natural absorbance divided by ln 10⁶), so a stain that lets a tenth of the light through is about 0.17.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"separate_stains takes (H, W, 3) uint8, not {rgb.shape} {rgb.dtype}")
    absorbance = np.log(np.maximum(np.arange(256)[:, None] / np.asarray(i0), 1e-6)) / np.log(1e-6)
    matrix = np.linalg.inv(vectors)  # rows: red, green, blue; columns: stains
    tables = (absorbance[:, :, None] * matrix[None]).astype(np.float32)  # (256, channel, stain)
    result = np.empty((*rgb.shape[:2], len(stains)), dtype=np.float32)
    for top in range(0, rgb.shape[0], _BAND_ROWS):
        channels = [np.ascontiguousarray(rgb[top : top + _BAND_ROWS, :, c]) for c in range(3)]
        for k, stain in enumerate(stains):
            amount = sum(cv2.LUT(channels[c], np.ascontiguousarray(tables[:, c, stain])) for c in range(3))
            np.maximum(amount, 0, out=result[top : top + _BAND_ROWS, :, k])
    return result


def why_no_stains(rgb: RgbImage, i0: Sequence[float]) -> str:
    """Why the colours of tissue cannot be those of hematoxylin and DAB; empty if they can.

    ``rgb`` is an overview (h, w, 3) uint8, ``i0`` the intensity of its background, (3,).
    """
    table = -np.log10(np.maximum(np.arange(256), 1)[:, None] / np.asarray(i0))  # (256, channel)
    # In three rows: numpy sums over rows many times as fast as within them.
    values = rgb.reshape(-1, 3).T
    density = np.stack([table[channel, number] for number, channel in enumerate(values)])
    is_tissue = density.mean(axis=0) >= _TISSUE_OD
    values, density = values[:, is_tissue].astype(np.int16), density[:, is_tissue]
    if density.shape[1] < _LEAST_TISSUE_PX:
        return ""
    spread = np.ptp(density, axis=0) / np.linalg.norm(density, axis=0)
    if np.percentile(spread, _GREY_PERCENTILE) < _GREY_SPREAD:
        return "the image is grey"
    ranges = np.ptp(np.percentile(rgb.reshape(-1, 3), [1, 99], axis=0), axis=0)
    if ranges.min() <= _CONSTANT < ranges.max():
        return "a colour channel is empty"
    dense = density.mean(axis=0) >= _DENSE_OD
    enough_dense = dense.sum() >= _LEAST_TISSUE_PX
    apart = np.abs(values - np.roll(values, 1, axis=0))[:, dense]
    if enough_dense and (apart <= _SAME_VALUES).mean(axis=1).max() > _SAME_SHARE:
        return "two colour channels are the same"
    red, green, blue = density / np.linalg.norm(density, axis=0)
    if (np.minimum(red, blue) - green > _LEAST_GREEN).mean() > _MOST_WITHOUT_GREEN:
        return SWAPPED
    if enough_dense:
        across = (red - blue)[dense]
        brown, violet = np.percentile(across, _COLOURED_PERCENTILES)
        if brown < -_COLOURED and violet > _COLOURED and np.corrcoef(across, green[dense])[0, 1] < _FALLS:
            return RED_AND_BLUE_SWAPPED
    as_it_is = _off_stains(density)
    if as_it_is <= _LEAST_OFF:
        return ""
    swapped = (_off_stains(density[list(order)]) for order in ((2, 1, 0), (1, 0, 2), (0, 2, 1)))
    return SWAPPED if as_it_is > _SWAPPED * min(swapped) else ""


def _off_stains(density: npt.NDArray[np.float64]) -> float:
    """Root mean square of the residual of (3, N) densities from mixtures of hematoxylin and DAB, relative to theirs."""
    both = STAIN_VECTORS[[Stain.HEMATOXYLIN, Stain.DAB]]
    both = both / np.linalg.norm(both, axis=1, keepdims=True)
    amounts = np.linalg.pinv(both).T @ density
    left = ((density - both.T @ amounts) ** 2).sum(axis=0)
    # If one amount is negative, the nearest mixture contains the other stain only.
    alone = [((density - one[:, None] * np.maximum(one @ density, 0)) ** 2).sum(axis=0) for one in both]
    left = np.where((amounts >= 0).all(axis=0), left, np.minimum(*alone))
    return float(np.sqrt(left.sum() / (density**2).sum()))
