"""Connected components of a mask that is read in blocks, joined across the borders of the blocks.

This is the union-find step of two-pass labelling (Rosenfeld and Pfaltz, 1966), applied to blocks: only the numbers at
the borders are held in memory, never the mask.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box, Size

Line = npt.NDArray[np.int64]


class Pieces:
    """Numbers the pieces of blocks from 1 on; :meth:`roots` joins the numbers of a piece that lies in several blocks.

    Blocks are added in reading order: one row of blocks after another, or band by band.
    """

    def __init__(self, size: Size, connectivity: Literal[4, 8], parents: list[int] | None = None) -> None:
        """Starts without pieces.

        Args:
            size: size of the mask.
            connectivity: whether pixels that touch at a corner are connected (8) or not (4).
            parents: parent of each number, starting with 0; share it between masks to give them one numbering.
        """
        self.parents = [0] if parents is None else parents
        self._size = size
        self._reach = (-1, 0, 1) if connectivity == 8 else (0,)
        # By the row or column at which blocks end: where each of their edges begins, and the numbers along it.
        self._above: dict[int, list[tuple[int, Line]]] = {}
        self._before: dict[int, list[tuple[int, Line]]] = {}
        self._left_px = self._top_px = 0  # of the last block; of the highest block in its row of blocks

    def add(self, box: Box, labels: npt.NDArray[Any], count: int) -> int:
        """Adds the pieces of a block.

        Args:
            box: position of the block.
            labels: (h, w) integers, 0 outside of pieces, else the piece's number in the block, 1 to ``count``.
            count: number of pieces in the block.

        Returns:
            The offset from numbers in the block to the numbers of pieces.
        """
        offset = len(self.parents) - 1
        self.parents.extend(range(offset + 1, offset + count + 1))
        if box.left_px <= self._left_px:  # a new row of blocks, which only touches the row before
            for row in [row for row in self._above if row <= self._top_px]:
                del self._above[row]
            self._top_px = box.top_px
        self._left_px, self._top_px = box.left_px, min(self._top_px, box.top_px)
        top, bottom, left, right = (
            np.where(edge > 0, edge.astype(np.int64) + offset, 0)
            for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        )
        self._join(self._above.get(box.top_px, []), top, box.left_px)
        self._join(self._before.get(box.left_px, []), left, box.top_px)
        if box.bottom_px < self._size.height_px:
            self._above.setdefault(box.bottom_px, []).append((box.left_px, bottom))
        if box.right_px < self._size.width_px:
            self._before.setdefault(box.right_px, []).append((box.top_px, right))
        return offset

    def roots(self) -> npt.NDArray[np.int64]:
        """The smallest number of each number's piece, (N + 1,) int64, starting with number 0."""
        roots = np.array(self.parents, np.int64)
        for number in range(1, len(roots)):  # a parent has a smaller number, so its root is already known
            roots[number] = roots[roots[number]]
        return roots

    def _join(self, edges: list[tuple[int, Line]], edge: Line, start_px: int) -> None:
        for other_start_px, other in edges:
            for shift in self._reach:
                begin = max(start_px, other_start_px - shift)
                end = min(start_px + edge.size, other_start_px - shift + other.size)
                if begin >= end:
                    continue
                here = edge[begin - start_px : end - start_px]
                there = other[begin + shift - other_start_px : end + shift - other_start_px]
                touching = (here > 0) & (there > 0)
                pairs = np.unique(np.stack([there[touching], here[touching]], axis=1), axis=0)
                for pair in pairs.tolist():
                    first, second = sorted(map(self._root, pair))
                    self.parents[second] = first

    def _root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number
