"""How much of a training is done, and when it is over."""

from __future__ import annotations

import time

from dermatome.training.settings import EPOCHS_WITHOUT_LIMIT, LoopSettings


class Clock:
    """How much of the run is done, and when it is over: by steps, by time, or by the first of both."""

    def __init__(self, settings: LoopSettings, start: float, epoch_steps: int) -> None:
        epochs = settings.epochs
        if epochs is None and settings.max_minutes is None:
            epochs = EPOCHS_WITHOUT_LIMIT
        self._steps = None if epochs is None else epochs * epoch_steps
        self._limit = None if settings.max_minutes is None else settings.max_minutes * 60
        self._start = start
        self._step_s = self._validation_s = 0.0
        self._mark = start

    @property
    def seconds(self) -> float:
        """Since the start of the run, those before a checkpoint included."""
        return time.perf_counter() - self._start

    def share(self, step: int) -> float:
        """How much of the run is done after ``step`` steps, 0 to 1: what the learning rate follows."""
        shares = [0.0]
        if self._steps is not None:
            shares.append(step / self._steps)
        if self._limit is not None:
            shares.append(self.seconds / max(1e-9, self._limit - self._reserve))
        return min(1.0, max(shares))

    def over(self, step: int) -> bool:
        """Whether the run ends after ``step`` steps, time for the final validation kept back."""
        if self._steps is not None and step >= self._steps:
            return True
        # One step always runs, however short the limit: the result is then poor, but it is one.
        return self._limit is not None and step > 0 and self.seconds + self._reserve >= self._limit

    @property
    def _reserve(self) -> float:
        # The last step, the last validation, and the evaluation for the report, which measures borders too.
        return 1.2 * self._step_s + 2.7 * self._validation_s

    def step_begins(self) -> None:
        """Marks the begin of a step."""
        self._mark = time.perf_counter()

    def step_ends(self) -> None:
        """Learns how long steps take."""
        took = time.perf_counter() - self._mark
        self._step_s = took if self._step_s == 0 else 0.8 * self._step_s + 0.2 * took

    def validation_begins(self) -> None:
        """Marks the begin of a validation."""
        self._mark = time.perf_counter()

    def validation_ends(self) -> None:
        """Learns how long a validation takes."""
        self._validation_s = max(self._validation_s, time.perf_counter() - self._mark)
