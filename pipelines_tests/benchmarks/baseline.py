"""The baseline of a network: the batches that passed through it, once more, without anything around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from dermatome.inference.backends import Outputs, Runner, Tag

Batch = npt.NDArray[Any]


class Recording(Runner):
    """A runner that keeps the batches given to it while ``keep`` is set.

    Attributes:
        runner: that does the work.
        backend: of that.
        precision: of that.
        batches: those kept, in order.
        keep: whether batches are kept.
    """

    def __init__(self, runner: Runner) -> None:
        self.runner, self.backend, self.precision = runner, runner.backend, runner.precision
        self.batches: list[Batch] = []
        self.keep = True

    def run(self, batch: Batch) -> Outputs:
        """See :class:`dermatome.inference.backends.Runner`."""
        self._see(batch)
        return self.runner.run(batch)

    def stream(self, batches: Iterable[tuple[Tag, Batch]]) -> Iterator[tuple[Tag, Outputs]]:
        """See :class:`dermatome.inference.backends.Runner`."""

        def seen() -> Iterator[tuple[Tag, Batch]]:
            for tag, batch in batches:
                self._see(batch)
                yield tag, batch

        return self.runner.stream(seen())

    def forward(self) -> None:
        """Runs the batches that were kept, and drops what comes out."""
        for _ in self.runner.stream(enumerate(self.batches)):
            pass

    @property
    def tiles(self) -> int:
        """In all batches that were kept."""
        return sum(map(len, self.batches))

    def _see(self, batch: Batch) -> None:
        if self.keep:
            self.batches.append(np.array(batch))


@contextmanager
def recorded(module: ModuleType) -> Iterator[list[Recording]]:
    """Every network that ``module`` prepares inside of it keeps its batches."""
    name = "prepare_kept" if hasattr(module, "prepare_kept") else "prepare_runner"
    prepare: Any = getattr(module, name)
    recordings: list[Recording] = []

    def prepare_recorded(*arguments: Any, **options: Any) -> Recording:
        recordings.append(Recording(prepare(*arguments, **options)))
        return recordings[-1]

    with mock.patch.object(module, name, prepare_recorded):
        yield recordings
