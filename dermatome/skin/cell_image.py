"""What Cellpose is shown: the hematoxylin of the epidermis, bright nuclei on dark, equalised inside the tissue."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.slide import RgbImage
from dermatome.stain import Stain, separate_stains

# Names the steps below; weights say which they were trained with, and others are refused.
PREPARATION = "h-stretch-clahe-1"

_CLAHE_TILE_UM = 64.0
_CLAHE_CLIP = 2.0
_STRETCH_PERCENTILES = (1.0, 99.8)
_NORMAL_PERCENTILES = (1.0, 99.0)


@dataclass(frozen=True)
class CellImage:
    """One region prepared for the network.

    Attributes:
        h: (H, W) float32, hematoxylin in the unit of :func:`dermatome.stain.separate_stains`.
        dab: (H, W) float32, DAB in the same unit.
        h_equalised: (H, W) uint8, nuclei bright, 0 far from the epidermis.
        network_input: (H, W) float32, about 0 to 1, 0 far from the epidermis.
        near: (H, W) bool, the epidermis and its margin; the network sees nothing else.
    """

    h: npt.NDArray[np.float32]
    dab: npt.NDArray[np.float32]
    h_equalised: npt.NDArray[np.uint8]
    network_input: npt.NDArray[np.float32]
    near: npt.NDArray[np.bool_]


def prepare_cell_image(rgb: RgbImage, epidermis: npt.NDArray[np.bool_], mpp: float, margin_um: float) -> CellImage:
    """Prepares a region for the network.

    Hematoxylin as light is dark at nuclei; taken as density it is inverted, nuclei are bright. It is stretched between
    two percentiles of the epidermis and equalised in tiles of 64 µm with a contrast limit (CLAHE, Zuiderveld 1994),
    which evens out thick and thin places and lifts nuclei under strong DAB. Percentiles come from the epidermis
    alone: glass and dermis have no say in them.

    Args:
        rgb: (H, W, 3) uint8.
        epidermis: (H, W) bool, at least one pixel True.
        mpp: microns per pixel.
        margin_um: how far beyond the epidermis the network may look.
    """
    densities = separate_stains(rgb, (Stain.HEMATOXYLIN, Stain.DAB))
    h, dab = np.ascontiguousarray(densities[..., 0]), np.ascontiguousarray(densities[..., 1])
    outside_px = cv2.distanceTransform((~epidermis).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    near = outside_px <= max(1.0, margin_um / mpp)
    low, high = np.percentile(h[epidermis], _STRETCH_PERCENTILES)
    stretched = ((h - low) / max(high - low, 1e-6)).clip(0, 1) * 255
    grey = np.where(near, np.rint(stretched), 0).astype(np.uint8)
    tile_px = _CLAHE_TILE_UM / mpp
    tiles = (max(1, round(grey.shape[1] / tile_px)), max(1, round(grey.shape[0] / tile_px)))
    equalised = np.where(near, cv2.createCLAHE(_CLAHE_CLIP, tiles).apply(grey), 0).astype(np.uint8)
    dark, bright = np.percentile(equalised[epidermis], _NORMAL_PERCENTILES)
    scaled = (equalised.astype(np.float32) - dark) / max(bright - dark, 1.0)
    return CellImage(h, dab, equalised, np.where(near, scaled, 0).astype(np.float32), near)
