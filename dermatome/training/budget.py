"""The budget of a training: it ends after a number of steps, after a time, or at the first of both."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dermatome.training.settings import EPOCHS_WITHOUT_LIMIT, TrainingSettings


class Budget:
    """Measures how much of a run is done and whether it is over; reserves time for the final validation.

    Args:
        settings: number of epochs and time limit.
            start: ``time.perf_counter()`` at which the run began, earlier by the time used before a checkpoint.
        epoch_steps: optimiser steps in an epoch.
    """

    def __init__(self, settings: TrainingSettings, start: float, epoch_steps: int) -> None:
        epochs = settings.epochs
        if epochs is None and settings.max_minutes is None:
            epochs = EPOCHS_WITHOUT_LIMIT
        self._steps = None if epochs is None else epochs * epoch_steps
        self._limit_s = None if settings.max_minutes is None else settings.max_minutes * 60
        self._start = start
        self._step_s = self._validation_s = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since the run began, including those before a checkpoint."""
        return time.perf_counter() - self._start

    def share(self, step: int) -> float:
        """Share of the run that is done after ``step`` steps, 0 to 1; the learning rate depends on it."""
        shares = [0.0]
        if self._steps is not None:
            shares.append(step / self._steps)
        if self._limit_s is not None:
            shares.append(self.seconds / max(1e-9, self._limit_s - self._reserve_s))
        return min(1.0, max(shares))

    def over(self, step: int) -> bool:
        """Whether the run ends after ``step`` steps. At least one step runs, however short the time limit."""
        if self._steps is not None and step >= self._steps:
            return True
        return self._limit_s is not None and step > 0 and self.seconds + self._reserve_s >= self._limit_s

    @property
    def _reserve_s(self) -> float:
        # The last step, the last validation, and the evaluation for the report, which takes longer.
        return 1.2 * self._step_s + 2.7 * self._validation_s

    @contextmanager
    def step(self) -> Iterator[None]:
        """Measures the duration of a step."""
        began = time.perf_counter()
        yield
        took = time.perf_counter() - began
        self._step_s = took if self._step_s == 0 else 0.8 * self._step_s + 0.2 * took

    @contextmanager
    def validation(self) -> Iterator[None]:
        """Measures the duration of a validation."""
        began = time.perf_counter()
        yield
        self._validation_s = max(self._validation_s, time.perf_counter() - began)
