"""The pixels inside an outline, compiled: the time grows with the outline's height and corners, not with their product
and its area, so that freehand outlines of thousands of points are drawn at once.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dermatome.imaging.compiled import compiled


@compiled
def pixels_in_outline(corners: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Whether each pixel's middle is inside an outline or on it.

    The same pixels as scikit-image's ``grid_points_in_poly`` finds, which tests each pixel against each edge; both
    count the crossings to the right and to the left of a point (O'Rourke, Computational Geometry in C, 7.4).

    Args:
        corners: (N, 2) x and y, closed whether or not the last repeats the first; the first pixel is at 0, 0.
        height: of the grid, px.
        width: of the grid, px.

    Returns:
        (height, width) bool.
    """
    right = np.zeros((height, width + 1), np.bool_)  # where the parity of the crossings changes along a row
    left = np.zeros((height, width + 1), np.bool_)
    inside = np.zeros((height, width), np.bool_)
    for number in range(len(corners)):
        x0, y0 = corners[number - 1]
        x1, y1 = corners[number]
        column, row = round(x1), round(y1)
        if 0 <= row < height and 0 <= column < width and abs(x1 - column) < 1e-12 and abs(y1 - row) < 1e-12:
            inside[row, column] = True
        for row in range(max(0, math.ceil(min(y0, y1))), min(height - 1, math.floor(max(y0, y1))) + 1):
            a, b = y0 - row, y1 - row
            if a == b:
                continue
            guess = min(max(math.ceil((x0 * b - x1 * a) / (b - a)), 0), width)
            if (a > 0) != (b > 0):
                end = guess  # pixels before it have the edge to their right
                while end > 0 and not ((x0 - (end - 1)) * b - (x1 - (end - 1)) * a) / (b - a) > 0:
                    end -= 1
                while end < width and ((x0 - end) * b - (x1 - end) * a) / (b - a) > 0:
                    end += 1
                right[row, 0] ^= True
                right[row, end] ^= True
            if (a < 0) != (b < 0):
                start = guess  # pixels from it on have the edge to their left
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
