"""Traces labelled pixels as polygons that follow pixel edges, so that their areas are exact pixel counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dermatome.imaging.compiled import compiled

Ring = npt.NDArray[np.int64]
"""(N, 2) x and y in px, closed: the last point repeats the first. x is a column edge, y a row edge."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Polygon:
    """One piece of a label, connected by edges.

    Attributes:
        label: label of its pixels.
        rings: the outer ring, then the holes; no ring crosses or touches itself.
    """

    label: int
    rings: list[Ring]


def trace_polygons(labels: npt.NDArray[Any]) -> list[Polygon]:
    """Traces each label above 0.

    Pieces that touch only at a corner become separate polygons: QuPath, shapely and other readers reject polygons that
    touch themselves.

    Args:
        labels: (H, W) integers.

    Returns:
        The polygons, in reading order of their first pixels.
    """
    pieces, firsts = _pieces(labels.astype(np.int32, copy=False))
    corners, ends, owners, touching = _walks(pieces)
    shells: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    first = 0
    for end, owner, touches in zip(ends.tolist(), owners.tolist(), touching.tolist(), strict=True):
        walk, first = corners[first:end], end
        for open_ring in _simple(walk) if touches else [walk]:
            ring = np.concatenate([open_ring, open_ring[:1]])
            if _signed_area(ring) > 0:
                shells[owner] = ring
            else:
                holes.setdefault(owner, []).append(ring)
    values = labels.ravel()[firsts].tolist()
    return [Polygon(int(values[owner - 1]), [shells[owner], *holes.get(owner, [])]) for owner in sorted(shells)]


@compiled
def _pieces(labels: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.int32], Ints]:
    """Numbers the pieces, connected by edges, of each label above 0 in the reading order of their first pixels.

    Args:
        labels: (H, W).

    Returns:
        (H + 2, W + 2) int32, the number of each pixel's piece from 1 on, 0 in the background and the margin; and the
        flat index in ``labels`` of each piece's first pixel.
    """
    height, width = labels.shape
    pieces = np.zeros((height + 2, width + 2), np.int32)
    across = width + 2
    # Until it is numbered, a pixel holds the flat index of an earlier pixel of its piece, or its own.
    linked = pieces.ravel()
    count = 0
    for row in range(height):
        for column in range(width):
            label = labels[row, column]
            if label <= 0:
                continue
            here = (row + 1) * across + column + 1
            left = column > 0 and labels[row, column - 1] == label
            above = row > 0 and labels[row - 1, column] == label
            # In the middle of a piece, the pixel to the left is joined with the one above already.
            if left and (not above or labels[row - 1, column - 1] == label):
                linked[here] = linked[here - 1]
            elif above:
                first = here - across
                while linked[first] != first:
                    first = linked[first]
                if left:
                    other = here - 1
                    while linked[other] != other:
                        other = linked[other]
                    linked[max(first, other)] = linked[here - 1] = first = min(first, other)
                linked[here] = linked[here - across] = first
            else:
                linked[here] = here
                count += 1
    firsts = np.empty(count, np.int64)
    found = 0
    for row in range(height):
        for column in range(width):
            here = (row + 1) * across + column + 1
            earlier = linked[here]
            if earlier == here:
                firsts[found] = row * width + column
                found += 1
                linked[here] = found
            elif earlier:
                linked[here] = linked[earlier]
    return pieces, firsts[:found]


@compiled
def _walks(pieces: npt.NDArray[np.int32]) -> tuple[Ints, Ints, Ints, npt.NDArray[np.bool_]]:
    """Closed walks along the edges of pieces, with the piece on the right, so clockwise around its outside.

    At a vertex, a walk turns right around the same pixel if it can, else goes straight on, else turns left.

    Args:
        pieces: (H + 2, W + 2) int32, number of each pixel's piece, 0 in the background and the margin.

    Returns:
        (C, 2) x and y of the corners of all walks, one walk after another, in px of the image without margin; the end
        of each walk in that array; the piece of each walk; whether the walk may pass a vertex twice.
    """
    height, width = pieces.shape
    # Steps in row and column by direction: right, down, left, up. The edge is to the left of the pixel that the walk
    # goes around, so the pixel beyond it is one step in the previous direction.
    down, along = (0, 1, 0, -1), (1, 0, -1, 0)
    walked = np.zeros((height, width), np.uint8)  # a bit for each direction
    count = 0
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            piece = pieces[row, column]
            if piece:
                for way in range(4):
                    count += pieces[row + down[way], column + along[way]] != piece
    corners = np.empty((count, 2), np.int64)
    ends, owners, touching = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.bool_)
    walks = found = 0
    for row in range(1, height - 1):
        for column in range(1, width - 1):
            piece = pieces[row, column]
            # Every closed walk goes right somewhere, along the top edge of a pixel.
            if not piece or pieces[row - 1, column] == piece or walked[row, column] & 1:
                continue
            y, x, way, touches = row, column, 0, False
            while not walked[y, x] >> way & 1:
                walked[y, x] |= 1 << way
                ahead_y, ahead_x = y + down[way], x + along[way]
                before = (way + 3) % 4
                beyond_y, beyond_x = ahead_y + down[before], ahead_x + along[before]
                ahead, beyond = pieces[ahead_y, ahead_x] == piece, pieces[beyond_y, beyond_x] == piece
                if ahead and not beyond:
                    y, x = ahead_y, ahead_x
                    continue
                # The corner of the pixel at which the edge ends, in coordinates without the margin.
                corners[found, 0] = x - 1 + (way == 0 or way == 1)
                corners[found, 1] = y - 1 + (way == 1 or way == 2)
                found += 1
                if ahead:
                    y, x, way = beyond_y, beyond_x, before
                else:
                    touches |= beyond
                    way = (way + 1) % 4
            ends[walks], owners[walks], touching[walks] = found, piece, touches
            walks += 1
    return corners[:found], ends[:walks], owners[:walks], touching[:walks]


def _simple(corners: Ints) -> list[Ints]:
    """Splits a closed walk into rings that pass each vertex once."""
    rings: list[Ints] = []
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for x, y in corners.tolist():
        corner = (x, y)
        if corner in place:
            start = place[corner]
            rings.append(np.array(path[start:]))
            for dropped in path[start:]:
                del place[dropped]
            del path[start:]
        place[corner] = len(path)
        path.append(corner)
    return [*rings, np.array(path)]


def _signed_area(ring: Ring) -> int:
    """Twice the area; positive for an outer ring, which is clockwise on the screen."""
    x, y = ring.T
    return int(x[:-1] @ y[1:] - y[:-1] @ x[1:])
