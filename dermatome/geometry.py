"""Boxes and sizes with named fields; unless stated otherwise, coordinates are in pixels of the slide's level 0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """Height and width, px."""

    height_px: int
    width_px: int

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return self.height_px * self.width_px

    def scaled(self, factor: float) -> Size:
        """This size times ``factor``, rounded, at least one pixel per side."""
        return Size(max(1, round(self.height_px * factor)), max(1, round(self.width_px * factor)))


@dataclass(frozen=True)
class Box:
    """A half-open rectangle: rows ``top_px`` to ``bottom_px`` (exclusive), columns ``left_px`` to ``right_px``."""

    top_px: int
    left_px: int
    bottom_px: int
    right_px: int

    @property
    def size(self) -> Size:
        """Its height and width."""
        return Size(self.bottom_px - self.top_px, self.right_px - self.left_px)

    @property
    def slices(self) -> tuple[slice, slice]:
        """For ``array[box.slices]``."""
        return slice(self.top_px, self.bottom_px), slice(self.left_px, self.right_px)

    @classmethod
    def whole(cls, size: Size) -> Box:
        """The box that covers an image of ``size``."""
        return cls(0, 0, size.height_px, size.width_px)

    @classmethod
    def of_slices(cls, key: tuple[slice, slice], size: Size) -> Box:
        """The box that ``array[key]`` reads from an array of ``size``, by numpy's rules.

        Raises:
            ValueError: a slice has a step.
        """
        (top, bottom, down), (left, right, along) = (
            part.indices(side) for part, side in zip(key, (size.height_px, size.width_px), strict=True)
        )
        if (down, along) != (1, 1):
            raise ValueError("a tiled array is read without steps: read a smaller level or resize the result")
        return cls(top, left, max(top, bottom), max(left, right))

    @classmethod
    def around(cls, mask: Any) -> Box | None:
        """The smallest box that contains all True values of (H, W) ``mask``; None if there are none."""
        rows, columns = (mask.any(axis=axis).nonzero()[0] for axis in (1, 0))
        return cls(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else None

    @classmethod
    def holding(cls, rows: Any, columns: Any) -> Box:
        """The smallest box that contains the pixels at (N,) ``rows`` and ``columns``; N must be at least 1."""
        return cls(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)

    @classmethod
    def covering(cls, boxes: Iterable[Box]) -> Box:
        """The smallest box that covers all of ``boxes``; there must be at least one."""
        edges = [(box.top_px, box.left_px, box.bottom_px, box.right_px) for box in boxes]
        tops, lefts, bottoms, rights = zip(*edges, strict=True)
        return cls(min(tops), min(lefts), max(bottoms), max(rights))

    def common(self, other: Box) -> Box:
        """The intersection of two boxes; its height or width is 0 or less if they do not overlap."""
        return Box(
            max(self.top_px, other.top_px),
            max(self.left_px, other.left_px),
            min(self.bottom_px, other.bottom_px),
            min(self.right_px, other.right_px),
        )

    def within(self, outer: Box) -> Box:
        """This box in coordinates that begin at the upper left corner of ``outer``."""
        return self.moved(-outer.top_px, -outer.left_px)

    def moved(self, down_px: int, along_px: int) -> Box:
        """This box, moved down and to the right."""
        return Box(self.top_px + down_px, self.left_px + along_px, self.bottom_px + down_px, self.right_px + along_px)

    def blocks(self, side_px: int) -> Iterator[Box]:
        """Square blocks that cover this box, in reading order; the last ones are cut to it."""
        for top in range(self.top_px, self.bottom_px, side_px):
            for left in range(self.left_px, self.right_px, side_px):
                yield Box(top, left, min(top + side_px, self.bottom_px), min(left + side_px, self.right_px))

    def squares(self, side_px: int, step_px: int) -> Iterator[Box]:
        """Squares ``step_px`` apart that cover this box, in reading order, the last ones at its rim.

        They are cut to this box where it is smaller than a square.
        """

        def starts(first: int, end: int) -> list[int]:
            last = max(first, end - side_px)
            return [*range(first, last, step_px), last]

        for top in starts(self.top_px, self.bottom_px):
            for left in starts(self.left_px, self.right_px):
                yield Box(top, left, min(top + side_px, self.bottom_px), min(left + side_px, self.right_px))

    def expanded(self, margin_px: int, within: Size) -> Box:
        """This box with a margin of ``margin_px`` on each side, cut to an image of size ``within``."""
        return self.padded(margin_px).common(Box.whole(within))

    def padded(self, margin_px: int) -> Box:
        """This box with a margin of ``margin_px`` on each side."""
        return Box(
            self.top_px - margin_px, self.left_px - margin_px, self.bottom_px + margin_px, self.right_px + margin_px
        )

    def rescaled(self, source: Size, target: Size) -> Box:
        """The smallest box in an image of size ``target`` that covers this box of the same image at size ``source``."""
        rows = target.height_px / source.height_px
        columns = target.width_px / source.width_px
        return Box(
            int(self.top_px * rows),
            int(self.left_px * columns),
            min(target.height_px, -int(-self.bottom_px * rows // 1)),
            min(target.width_px, -int(-self.right_px * columns // 1)),
        )

    def fits(self, within: Size) -> bool:
        """Whether it is not empty and lies inside an image of size ``within``."""
        return (
            0 <= self.top_px < self.bottom_px <= within.height_px
            and 0 <= self.left_px < self.right_px <= within.width_px
        )
