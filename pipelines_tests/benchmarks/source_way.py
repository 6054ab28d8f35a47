"""The way of the source scripts, written plainly: what the tiled inference is compared with, in time and in numbers.

One tile after another, each alone through the network in eager torch at fp32, channels first, every tile whether or not
it holds tissue, and the probabilities of the whole image added up in numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.classes import RgbImage
from dermatome.geometry import Size
from dermatome.imaging.tiling import blend_window, tile_grid

if TYPE_CHECKING:
    from dermatome.skin.tissue.network import TissueWeights


def tissue_one_by_one(
    weights: TissueWeights, pixels: RgbImage, *, tile_px: int = 256, overlap_px: int = 64
) -> npt.NDArray[np.uint8]:
    """(H, W) uint8: the most probable class of each pixel of (H, W, 3) uint8 ``pixels``, no side below ``tile_px``."""
    import torch

    height, width = pixels.shape[:2]
    mean, std = np.array(weights.card.mean, np.float32), np.array(weights.card.std, np.float32)
    window = blend_window(tile_px)
    total = np.zeros((len(weights.card.classes), height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    for box in tile_grid(Size(height, width), tile_px, overlap_px):
        tile = (pixels[box.slices].astype(np.float32) / 255 - mean) / std
        batch = torch.from_numpy(np.ascontiguousarray(tile.transpose(2, 0, 1)[None]))
        with torch.no_grad():
            found = torch.softmax(weights.network(batch), dim=1)[0].numpy()
        total[:, *box.slices] += found * window
        weight[box.slices] += window
    mask: npt.NDArray[np.uint8] = (total / weight).argmax(axis=0).astype(np.uint8)
    return mask
