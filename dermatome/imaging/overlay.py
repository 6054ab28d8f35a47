"""Draws labels over images: tints, outlines, and distinct colours for many cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dermatome.classes import IGNORED, Rgb, RgbImage, TissueClass
from dermatome.geometry import Box, Size
from dermatome.slides.resize import resize_image

TISSUE_COLOURS: tuple[Rgb, ...] = tuple(c.colour for c in TissueClass)
OUTLINE: Rgb = (0, 255, 255)
"""Cyan, which is unlike all stains, so outlines are visible on hematoxylin, eosin and DAB."""
_SAMPLED_ROWS = 512


def shrink_image(pixels: npt.NDArray[Any], max_side_px: int) -> npt.NDArray[Any]:
    """Shrinks an image (H, W) or (H, W, C) to at most ``max_side_px`` a side, by averaging; never enlarges it."""
    return resize_image(pixels, fitting(Size(*pixels.shape[:2]), max_side_px))


def shrink_labels(labels: npt.NDArray[Any], max_side_px: int) -> npt.NDArray[Any]:
    """Shrinks labels (H, W) to at most ``max_side_px`` a side, by nearest neighbour; never enlarges them."""
    return sample_labels(labels, Box.whole(Size(*labels.shape)), max_side_px)


def sample_labels(labels: Any, box: Box, max_side_px: int) -> npt.NDArray[Any]:
    """Shrinks the labels in ``box`` like :func:`shrink_labels`; it reads an array, or an object like one, in bands."""
    size = fitting(box.size, max_side_px)
    rows = box.top_px + ((np.arange(size.height_px) + 0.5) * box.size.height_px / size.height_px).astype(np.intp)
    columns = ((np.arange(size.width_px) + 0.5) * box.size.width_px / size.width_px).astype(np.intp)
    parts = []
    for some in np.array_split(rows, max(1, box.size.height_px // _SAMPLED_ROWS)):
        if some.size:
            band = labels[some[0] : some[-1] + 1, box.left_px : box.right_px]
            parts.append(band[(some - some[0])[:, None], columns])
    return np.concatenate(parts)


def fitting(size: Size, max_side_px: int) -> Size:
    """``size`` shrunk to at most ``max_side_px`` a side with its aspect ratio; unchanged if it is smaller."""
    return size.scaled(min(1.0, max_side_px / max(size.height_px, size.width_px)))


def colour_labels(labels: npt.NDArray[Any], colours: Sequence[Rgb]) -> RgbImage:
    """Colours labels (H, W): label ``n`` gets ``colours[n]``; returns (H, W, 3) uint8."""
    coloured: RgbImage = np.asarray(colours, np.uint8)[labels]
    return coloured


def tint(image: RgbImage, labels: npt.NDArray[Any], colours: Sequence[Rgb], opacity: float = 0.45) -> RgbImage:
    """Mixes the colours of labels into the image; pixels of label 0 stay unchanged."""
    share = np.where(labels == 0, 0, opacity).astype(np.float32)[..., None]
    mixed = image * (1 - share) + colour_labels(labels, colours) * share
    return np.asarray(mixed + 0.5, np.uint8)


def borders(labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(H, W) bool: pixels of labels above 0 that share an edge with another label; the image edge is not a border."""
    edge = np.zeros(labels.shape, bool)
    for near, far in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = labels[near] != labels[far]
        edge[near] |= differs
        edge[far] |= differs
    return edge & (labels > 0)


def draw_borders(image: RgbImage, labels: npt.NDArray[Any], colour: Rgb = OUTLINE, width_px: int = 1) -> RgbImage:
    """Draws the borders of labels on a copy of the image."""
    edge = borders(labels)
    if width_px > 1:
        edge = cv2.dilate(edge.view(np.uint8), np.ones((width_px, width_px), np.uint8)).astype(bool)
    drawn = image.copy()
    drawn[edge] = colour
    return drawn


def cell_colours(count: int) -> list[Rgb]:
    """White for 0, then ``count`` light, saturated colours; consecutive numbers have very different hues."""
    import colorsys

    found: list[Rgb] = [(255, 255, 255)]
    for number in range(count):
        red, green, blue = colorsys.hsv_to_rgb(
            number * 0.618034 % 1, 0.55 + 0.3 * (number % 2), 0.6 + 0.12 * (number % 4)
        )
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
    return found


def enlarge(pixels: RgbImage, labels: npt.NDArray[Any], side_px: int) -> tuple[RgbImage, npt.NDArray[Any]]:
    """Repeats pixels and labels an integer number of times, up to ``side_px`` a side, so that outlines are thin."""
    times = max(1, side_px // max(labels.shape))
    bigger = [array.repeat(times, axis=0).repeat(times, axis=1) for array in (pixels, labels)]
    return bigger[0], bigger[1]


def tint_tissue(image: RgbImage, labels: npt.NDArray[Any], opacity: float = 0.5) -> RgbImage:
    """Tints the tissue classes of an image and draws their borders; ``labels`` have the size of the image.

    Pixels labelled :data:`IGNORED` are not tinted.
    """
    labels = np.where(labels == IGNORED, 0, labels)
    width_px = max(1, round(max(labels.shape) / 900))
    return draw_borders(tint(image, labels, TISSUE_COLOURS, opacity), labels, (30, 30, 30), width_px=width_px)
