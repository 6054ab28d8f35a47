"""Work on rows of a slide that come from above: what looks at neighbours waits until they are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

AnyRows = npt.NDArray[Any]


class RowQueue:
    """Rows that wait for others of the same place to be made."""

    def __init__(self) -> None:
        """None waits."""
        self._rows: AnyRows | None = None

    def put(self, rows: AnyRows) -> None:
        """The next rows, (n, W, …)."""
        self._rows = rows if self._rows is None else np.concatenate([self._rows, rows])

    def take(self, count: int) -> AnyRows:
        """The first ``count`` of those that wait."""
        assert self._rows is not None
        taken, self._rows = self._rows[:count], self._rows[count:]
        return taken


class LocalWork:
    """Work whose result for a row depends on rows not further away than ``reach``.

    Args:
        work: from arrays of as many rows each, to an array of as many.
        reach: rows above and below; beyond the first and the last row of the slide there are none.
    """

    def __init__(self, work: Callable[..., AnyRows], reach: int) -> None:
        """Nothing has come."""
        self._work, self._reach = work, reach
        self._held: tuple[AnyRows, ...] = ()
        self._above = 0  # rows held that are done and only neighbours of what comes

    def add(self, *rows: AnyRows, last: bool) -> AnyRows:
        """The rows that are done now that these came too; all, where they are the slide's last."""
        pairs = zip(self._held, rows, strict=True)
        self._held = tuple(np.concatenate(pair) for pair in pairs) if self._held else rows
        known = len(self._held[0])
        until = max(self._above, known if last else known - self._reach)
        if until == self._above:
            return self._work(*(array[:0] for array in self._held))
        done = self._work(*self._held)[self._above : until]
        above = min(until, self._reach)
        self._held = tuple(array[until - above :] for array in self._held)
        self._above = above
        return done
