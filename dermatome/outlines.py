"""Outlines of labelled pixels as polygons that run along pixel edges, so that their areas are exact pixel counts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Ring = list[list[int]]
"""Closed: [[x, y], …] in px, the last point the first again; x is a column edge, y a row edge."""

_STEP = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
"""What one edge adds to (row, column), by direction: right, down, left, up."""

_START = np.array([[0, 0], [0, 1], [1, 1], [1, 0]])
"""The corner of a pixel at which its top, right, bottom and left edge starts, its inside to the right of the walk."""


@dataclass(frozen=True)
class Polygon:
    """One connected (by edges) piece of a label.

    Attributes:
        label: the value of its pixels.
        rings: the outer ring, then the holes; none crosses or touches itself.
    """

    label: int
    rings: list[Ring]


def trace_polygons(labels: npt.NDArray[Any]) -> list[Polygon]:
    """The polygons of each label above 0.

    Pixels that touch by a corner only are separate polygons: a polygon that crosses itself in a point is not valid in
    QuPath, shapely or any other reader.

    Args:
        labels: (H, W) integers.

    Returns:
        In reading order of each polygon's first pixel.
    """
    from skimage.measure import label as connected

    pieces = np.pad(connected(labels, background=0, connectivity=1).astype(np.int32), 1)
    piece, direction, vertex = _edges(pieces)
    if not piece.size:
        return []
    following = _following(direction, vertex, pieces.shape[1])
    columns = pieces.shape[1] + 1
    shells: dict[int, Ring] = {}
    holes: dict[int, list[Ring]] = {}
    for first, walk in _walks(following):
        owner = int(piece[first])
        corners = [int(vertex[edge]) for edge in walk if direction[edge] != direction[following[edge]]]
        # The vertex of an edge is its end: a corner is where the direction changes after it.
        for ring_of in _simple(corners):
            # The pieces were padded by one pixel, so edges are one too far.
            ring = [[corner % columns - 1, corner // columns - 1] for corner in (*ring_of, ring_of[0])]
            if _signed_area(ring) > 0:
                shells[owner] = ring
            else:
                holes.setdefault(owner, []).append(ring)
    values = np.zeros(int(pieces.max()) + 1, np.int64)
    inner = pieces[1:-1, 1:-1]
    values[inner[inner > 0]] = labels[inner > 0]
    return [Polygon(int(values[owner]), [shells[owner], *holes.get(owner, [])]) for owner in sorted(shells)]


def _edges(pieces: npt.NDArray[np.int32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Every pixel edge between two pieces, once for each piece beside it: piece, direction, end vertex."""
    piece, direction, vertex = [], [], []
    for way, (row_shift, column_shift) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
        beyond = np.roll(pieces, (-row_shift, -column_shift), axis=(0, 1))
        rows, columns = np.nonzero((pieces > 0) & (pieces != beyond))
        end_row = rows + _START[way, 0] + _STEP[way, 0]
        end_column = columns + _START[way, 1] + _STEP[way, 1]
        piece.append(pieces[rows, columns])
        direction.append(np.full(rows.size, way))
        vertex.append(end_row * (pieces.shape[1] + 1) + end_column)
    return np.concatenate(piece), np.concatenate(direction), np.concatenate(vertex)


def _following(direction: npt.NDArray[Any], vertex: npt.NDArray[Any], width_px: int) -> list[int]:
    """For each edge the next one of the same piece: right round the same pixel, else straight on, else left."""
    back = _STEP[direction] @ np.array([width_px + 1, 1])
    start_key = (vertex - back) * 4 + direction
    order = np.argsort(start_key)
    sorted_keys = start_key[order]
    following = np.full(vertex.size, -1)
    for turn in (3, 0, 1):  # the last that exists wins: left, straight, right
        wanted = vertex * 4 + (direction + turn) % 4
        place = np.minimum(np.searchsorted(sorted_keys, wanted), wanted.size - 1)
        found = sorted_keys[place] == wanted
        following[found] = order[place[found]]
    return [int(edge) for edge in following]


def _walks(following: list[int]) -> list[tuple[int, list[int]]]:
    seen = bytearray(len(following))
    walks = []
    for first in range(len(following)):
        if seen[first]:
            continue
        walk, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            walk.append(edge)
            edge = following[edge]
        walks.append((first, walk))
    return walks


def _simple(corners: list[int]) -> list[list[int]]:
    """A closed walk cut into rings that pass each vertex once."""
    if len(set(corners)) == len(corners):
        return [corners]
    rings: list[list[int]] = []
    path: list[int] = []
    place: dict[int, int] = {}
    for corner in corners:
        if corner in place:
            start = place[corner]
            rings.append(path[start:])
            for dropped in path[start:]:
                del place[dropped]
            del path[start:]
        place[corner] = len(path)
        path.append(corner)
    return [*rings, path]


def _signed_area(ring: Ring) -> int:
    """Twice the area, positive for a ring walked clockwise as seen on the screen: an outer ring."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))
