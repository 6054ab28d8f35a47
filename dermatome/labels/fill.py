"""The pixels inside outlines, compiled: the time grows with the rows of pixels that their edges cross, and not with the
product of their corners and area, so that freehand outlines of thousands of points are drawn at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dermatome.errors import BadAnnotation
from dermatome.geometry import Box, Size
from dermatome.imaging.compiled import compiled

MAX_CROSSED_ROWS = 50_000_000
"""Rows of pixels that the edges of all outlines of a file may cross: 200,000 nuclei of 80 px cross 32 million."""

_Outline = npt.NDArray[np.float64]


def outline_box(outline: _Outline, size: Size, margin_px: int = 0) -> Box:
    """The box of an (N, 2) outline, cut to an image with a margin; empty at 0, 0 if nothing of it can be drawn.

    Only this part is drawn, so that a wrong coordinate far away costs no memory.
    """
    if len(outline) < 3:
        return Box(0, 0, 0, 0)
    edges = np.stack([np.floor(outline.min(0)), np.ceil(outline.max(0))])
    limits = np.array([size.width_px, size.height_px]) + margin_px
    (left, top), (right, bottom) = edges.clip(-margin_px, limits).astype(int).tolist()
    box = Box(top, left, bottom, right)
    return box if box.size.area_px else Box(0, 0, 0, 0)


def crossed_rows(outline: _Outline, box: Box) -> int:
    """Counts the rows of pixels in ``box`` that each edge of an (N, 2) outline crosses: the work to fill it."""
    y = outline[:, 1].clip(box.top_px, box.bottom_px)
    return int(np.abs(np.diff(y, append=y[:1])).sum())


def check_crossed_rows(rows: int, source: object) -> None:
    """Checks that the outlines of a file can be drawn within seconds.

    Raises:
        BadAnnotation: their edges cross too many rows.
    """
    if rows > MAX_CROSSED_ROWS:
        raise BadAnnotation(
            f"{source} has outlines whose edges cross {rows / 1e6:,.0f} million rows of pixels, and "
            f"{MAX_CROSSED_ROWS / 1e6:.0f} million are drawn at most: delete outlines that cross themselves again and "
            "again, or export fewer to a file."
        )


def pixels_in_outlines(outlines: Sequence[_Outline], box: Box) -> npt.NDArray[np.bool_]:
    """Which pixels of a box have their middle inside an odd number of outlines, such as a polygon and its holes.

    The same pixels as scikit-image's ``grid_points_in_poly`` finds, which tests each pixel against each edge; both
    count the crossings to the right and to the left of a point (O'Rourke, Computational Geometry in C, 7.4), and count
    points on an edge and at a corner as inside.

    Args:
        outlines: (N, 2) x and y of each in px of the image, closed whether or not the last repeats the first.
        box: the part of the image.

    Returns:
        (h, w) bool.
    """
    ends = [outline - (box.left_px + 0.5, box.top_px + 0.5) for outline in outlines]
    starts = np.concatenate([np.roll(outline, 1, axis=0) for outline in ends])
    return _inside(starts, np.concatenate(ends), box.size.height_px, box.size.width_px)


@compiled
def _inside(starts: _Outline, ends: _Outline, height: int, width: int) -> npt.NDArray[np.bool_]:
    """(height, width) bool of the (N, 2) starts and ends of edges; the middle of the first pixel is at 0, 0."""
    right = np.zeros((height, width + 1), np.bool_)  # where the parity of the crossings changes along a row
    left = np.zeros((height, width + 1), np.bool_)
    inside = np.zeros((height, width), np.bool_)
    for number in range(len(starts)):
        x0, y0 = starts[number]
        x1, y1 = ends[number]
        column, row = round(x1), round(y1)
        if 0 <= row < height and 0 <= column < width and abs(x1 - column) < 1e-12 and abs(y1 - row) < 1e-12:
            inside[row, column] = True
        for row in range(max(0, math.ceil(min(y0, y1))), min(height - 1, math.floor(max(y0, y1))) + 1):
            a, b = y0 - row, y1 - row
            if a == b:
                continue
            guess = min(max(math.ceil((x0 * b - x1 * a) / (b - a)), 0), width)
            if (a > 0) != (b > 0):
                end = guess  # the edge lies to the right of the pixels before it
                while end > 0 and not ((x0 - (end - 1)) * b - (x1 - (end - 1)) * a) / (b - a) > 0:
                    end -= 1
                while end < width and ((x0 - end) * b - (x1 - end) * a) / (b - a) > 0:
                    end += 1
                right[row, 0] ^= True
                right[row, end] ^= True
            if (a < 0) != (b < 0):
                start = guess  # the edge lies to the left of the pixels from it on
                while start > 0 and ((x0 - (start - 1)) * b - (x1 - (start - 1)) * a) / (b - a) < 0:
                    start -= 1
                while start < width and not ((x0 - start) * b - (x1 - start) * a) / (b - a) < 0:
                    start += 1
                left[row, start] ^= True
    for row in range(height):
        to_right = to_left = False
        for column in range(width):
            to_right ^= right[row, column]
            to_left ^= left[row, column]
            inside[row, column] |= to_right or to_left
    return inside
