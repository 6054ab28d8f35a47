"""From pixels to a class for each pixel: overlapping tiles through the network, blended, enlarged, decided."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadSetting
from dermatome.geometry import Size
from dermatome.network import class_probabilities
from dermatome.slide import RgbImage
from dermatome.tiling import Blender, RowEnlarger, cut_tile, tile_grid

if TYPE_CHECKING:
    import torch

    from dermatome.compute import Compute


@dataclass(frozen=True)
class Predictor:
    """A network with what is needed to use it, and how.

    Attributes:
        network: in evaluation mode, on ``compute``'s device.
        classes: its number of classes.
        mean: of its normalisation, on the scale 0 to 1.
        std: likewise.
        compute: device and precision.
        tile_px: side of the tiles, a multiple of 32; smaller for a smaller image.
        overlap_px: what neighbouring tiles share.
        batch: tiles at once.
        views: flips and turns averaged, see :func:`dermatome.network.class_probabilities`.
    """

    network: torch.nn.Module
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    compute: Compute
    tile_px: int = 256
    overlap_px: int = 64
    batch: int = 8
    views: int = 1

    def __post_init__(self) -> None:
        """Checks the settings."""
        if self.tile_px < 32 or self.tile_px % 32:
            raise BadSetting(f"The tile side is {self.tile_px} px: use a multiple of 32.")
        if self.batch < 1:
            raise BadSetting(f"The batch is {self.batch} tiles: use 1 or more.")

    def labels(
        self,
        pixels: RgbImage,
        target: Size,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Prediction:
        """The most probable class of each pixel.

        Args:
            pixels: (h, w, 3) uint8 at the network's resolution.
            target: size of the answer; probabilities are enlarged bilinearly to it before the class is chosen.
            progress: called with tiles done and tiles in all.
        """
        size = Size(*pixels.shape[:2])
        mask = np.empty((target.height_px, target.width_px), dtype=np.uint8)
        confidence = 0.0

        def decide(top: int, rows: npt.NDArray[np.float32]) -> None:
            nonlocal confidence
            here = slice(top, top + rows.shape[1])
            mask[here] = rows.argmax(axis=0)
            confidence += float(rows.max(axis=0).sum(dtype=np.float64))

        # A small image gets a tile of its own size: mirroring it up to a whole one would cost time and context.
        tile_px = min(self.tile_px, -(-max(size.height_px, size.width_px) // 32) * 32)
        blender = Blender(self.classes, size, tile_px, RowEnlarger(size, target, decide))
        boxes = tile_grid(size, tile_px, min(self.overlap_px, tile_px // 2))
        for first in range(0, len(boxes), self.batch):
            some = boxes[first : first + self.batch]
            tiles = np.stack([cut_tile(pixels, box) for box in some])
            found = class_probabilities(self.network, tiles, self.mean, self.std, self.compute, self.views)
            for box, tile in zip(some, found, strict=True):
                blender.add(box, tile)
            if progress:
                progress(first + len(some), len(boxes))
        blender.close()
        return Prediction(mask, confidence / target.area_px, len(boxes))


@dataclass(frozen=True)
class Prediction:
    """What :meth:`Predictor.labels` found.

    Attributes:
        mask: (H, W) uint8, the most probable class.
        mean_confidence: mean probability of the chosen class.
        tiles: how many tiles went through the network.
    """

    mask: npt.NDArray[np.uint8]
    mean_confidence: float
    tiles: int


def resize_image(pixels: RgbImage, size: Size) -> RgbImage:
    """``pixels`` at ``size``: averaged where it shrinks (no aliasing), bilinear where it grows."""
    import cv2

    if Size(*pixels.shape[:2]) == size:
        return pixels
    smaller = size.area_px < pixels.shape[0] * pixels.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    resized: RgbImage = cv2.resize(pixels, (size.width_px, size.height_px), interpolation=how)
    return resized


def resize_labels(labels: npt.NDArray[np.uint8], size: Size) -> npt.NDArray[np.uint8]:
    """``labels`` at ``size``, each pixel that of the nearest centre: no class appears that was not there."""
    import cv2

    if Size(*labels.shape[:2]) == size:
        return labels
    how = cv2.INTER_NEAREST_EXACT
    resized: npt.NDArray[np.uint8] = cv2.resize(labels, (size.width_px, size.height_px), interpolation=how)
    return resized
