"""Connected pieces of a mask that comes in blocks, joined over the borders of the blocks.

This is the union-find step of two-pass labelling (Rosenfeld and Pfaltz, 1966), taken over blocks: memory holds the
numbers at the borders, never the mask.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dermatome.geometry import Box, Size

Line = npt.NDArray[np.int64]


class Pieces:
    """Numbers the pieces of blocks from 1 on; a piece in several blocks has several numbers, which :meth:`roots` joins.

    Blocks come in reading order: row of blocks by row of blocks, or band by band.
    """

    def __init__(self, size: Size, connectivity: Literal[4, 8], parents: list[int] | None = None) -> None:
        """Starts without pieces.

        Args:
            size: size of the mask.
            connectivity: whether pieces that touch by a corner of a pixel are one (8) or not (4).
            parents: the parent of each number, 0 first, if several masks share one numbering.
        """
        self.parents = [0] if parents is None else parents
        self._size = size
        self._reach = (-1, 0, 1) if connectivity == 8 else (0,)
        # By the row or column that blocks ended at: where each of their edges begins, and the numbers along it.
        self._above: dict[int, list[tuple[int, Line]]] = {}
        self._before: dict[int, list[tuple[int, Line]]] = {}
        self._left_px = self._top_px = 0  # of the last block; of the highest block in its row of blocks

    def add(self, box: Box, labels: npt.NDArray[Any], count: int) -> int:
        """Takes the pieces of a block.

        Args:
            box: place of the block.
            labels: (h, w) integers, 0 outside, else the piece's number in the block, 1 to ``count``.
            count: number of pieces.

        Returns:
            What is added to a number in the block to get the piece's number.
        """
        offset = len(self.parents) - 1
        self.parents.extend(range(offset + 1, offset + count + 1))
        if box.left_px <= self._left_px:  # a new row of blocks: what lies above the one before cannot touch it
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
        """Returns for each number, 0 included, the smallest number of its piece."""
        roots = np.array(self.parents, np.int64)
        for number in range(1, len(roots)):  # a parent has the smaller number, so its own root is known
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
