"""The batch runner: one stage over many slides in one process, with loading, computing and saving overlapped.

Slides are loaded ahead of the device and saved behind it, in threads; one thread computes, several small slides in one
call. The slides that wait between two phases are limited in number and pixels, so memory does not grow with the number
of slides. Each key yields its own result or its own error.
"""

from __future__ import annotations

import atexit
import gc
import json
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field

from dermatome.errors import DermatomeError
from dermatome.storage.layout import DataRoot
from dermatome.storage.settings_model import Effect, SettingsModel

Result = TypeVar("Result")

SAVE_GRACE_S = 10.0
"""Time that a cancelled batch waits for files that are being saved, s."""
OTHER_GRACE_S = 2.0
"""Time that a cancelled batch waits for slides that are being loaded or computed, which leave no files, s."""


class Cancelled(BaseException):
    """The batch was cancelled while a phase was running; never counts as the error of a slide."""


class KilledRun(DermatomeError):
    """Two runs died while they worked on a slide."""


class BatchSettings(SettingsModel):
    """How the phases of a batch overlap. Changes speed and memory, never a result.

    Attributes:
        readers: number of threads that load slides.
        writers: number of threads that save results.
        waiting: maximum number of slides between two phases.
        waiting_px: no further slide is loaded (or computed) while this many pixels wait; a larger slide passes alone.
        group_px: several slides are computed in one call if they have at most this many pixels together.
    """

    readers: Annotated[int, Effect.SPEED] = Field(default=2, ge=1)
    writers: Annotated[int, Effect.SPEED] = Field(default=2, ge=1)
    waiting: Annotated[int, Effect.SPEED] = Field(default=16, ge=1)
    waiting_px: Annotated[int, Effect.SPEED] = Field(default=48_000_000, ge=1)
    group_px: Annotated[int, Effect.SPEED] = Field(default=12_000_000, ge=1)


@dataclass(frozen=True)
class Loaded:
    """A slide that was loaded.

    Attributes:
        content: given to ``compute``.
        pixels: size of the slide, px.
        token: given to ``save``.
    """

    content: Any
    pixels: int = 0
    token: Any = None


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What ``load`` returns for a slide that needs no work."""

    result: Result


@dataclass(frozen=True)
class Work(Generic[Result]):
    """The phases of a batch.

    Attributes:
        open: puts networks on the device; called once, in the computing thread, before the first ``compute``. Its
            argument raises :class:`Cancelled` once the batch is cancelled; long computations call it regularly. An
            error in ``open`` ends the batch.
        load: reads and decodes one slide; called in several threads at once.
        compute: computes the results of one or more loaded contents, in order.
        save: writes one result (key, result, token); called in several threads at once.
    """

    open: Callable[[Callable[[], None]], None]
    load: Callable[[str], Loaded | Done[Result]]
    compute: Callable[[Sequence[Any]], Sequence[Any]]
    save: Callable[[str, Any, Any], Result]


@dataclass(frozen=True)
class Finished(Generic[Result]):
    """The outcome of one key: exactly one of ``result`` and ``error`` is set."""

    key: str
    result: Result | None
    error: Exception | None


@dataclass(frozen=True)
class InFlight:
    """Notes in the data root about the slides that a run is working on; a run that is killed leaves them behind.

    Attributes:
        root: data root.
        asset: asset name.
        run_id: id of this run.
        has_ended: tells whether the run with a given id has ended.
    """

    root: DataRoot
    asset: str
    run_id: str
    has_ended: Callable[[str], bool] = lambda run_id: True

    def begin(self, key: str, *, alone: bool = False) -> None:
        """Notes that work on ``key`` begins; ``alone`` means that no other slide is in flight."""
        path = self.root.in_flight(self.asset, key)
        with suppress(OSError):  # on a full disk, saving fails with a better error
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"run_id": self.run_id, "alone": alone}))

    def end(self, key: str) -> None:
        """Removes the note of ``key``."""
        self.root.in_flight(self.asset, key).unlink(missing_ok=True)

    def left_by_dead_runs(self, keys: Sequence[str]) -> dict[str, bool]:
        """Keys that were in flight when a run died, each with whether it was the only one."""
        found = {}
        for key in keys:
            try:
                note = json.loads(self.root.in_flight(self.asset, key).read_text())
                if note["run_id"] == self.run_id or self.has_ended(note["run_id"]):
                    found[key] = bool(note["alone"])
            except OSError:  # no note
                continue
            except (ValueError, KeyError, TypeError):  # the note was cut short by the kill
                found[key] = False
        return found


def run_batch(
    work: Work[Result],
    keys: Sequence[str],
    settings: BatchSettings | None = None,
    in_flight: InFlight | None = None,
) -> Generator[Finished[Result], None, None]:
    """Yields every key once, as it finishes; closing the generator cancels the rest.

    A slide that was in flight when an earlier run died is tried last, alone. If that kills this run too, the next run
    fails the slide without trying it, so that one slide cannot kill run after run.

    Raises:
        Exception: the error raised by ``work.open``; errors of single slides are part of what is yielded.
    """
    suspects = in_flight.left_by_dead_runs(keys) if in_flight is not None else {}
    with closing(_Batch(work, settings or BatchSettings(), in_flight)) as batch:
        yield from batch.run([key for key in keys if key not in suspects])
        for key, was_alone in suspects.items():
            assert in_flight is not None
            if was_alone:
                in_flight.end(key)
                yield Finished(key, None, KilledRun(
                    f"Two runs died while they worked on {key}, the second time on that slide alone: it may need more "
                    "memory than there is. Give the run more memory and materialize it again, or remove the slide."
                ))  # fmt: skip
            else:
                yield from batch.run([key], alone=True)


@dataclass
class _Item:
    """A slide between two phases."""

    key: str
    pixels: int
    token: Any
    content: Any
    error: Exception | None = None


class _Batch(Generic[Result]):
    """The state of a batch. `_load`, `_compute_next` and the callables of ``work`` run in other threads."""

    def __init__(self, work: Work[Result], settings: BatchSettings, in_flight: InFlight | None) -> None:
        self._work, self._settings, self._in_flight = work, settings, in_flight
        self._cancelled = threading.Event()
        self._opened = False
        self._loaders = _Threads("load", settings.readers)
        self._device = _Threads("compute", 1)
        self._savers = _Threads("save", settings.writers)
        self._loading: dict[Future[Any], str] = {}
        self._loaded: deque[_Item] = deque()
        self._computing: set[Future[list[_Item]]] = set()
        self._saving: dict[Future[Any], tuple[str, int]] = {}
        self._finished: deque[Finished[Result]] = deque()
        self._noted: set[str] = set()
        # An interrupt outside of the generator would otherwise leave it open until the process ends.
        atexit.register(self.close)

    def run(self, keys: Sequence[str], *, alone: bool = False) -> Generator[Finished[Result], None, None]:
        """Yields every key once, as it finishes."""
        waiting = deque(keys)
        while True:
            self._submit(waiting, alone=alone)
            running = [*self._loading, *self._computing, *self._saving]
            if not running and not self._finished:
                return
            # Results are yielded one by one, so that the device does not idle while the caller handles many.
            timeout_s = 0 if self._finished else None
            ended = wait(running, timeout_s, FIRST_COMPLETED).done
            running.clear()
            while ended:  # no variable may hold a result longer than its phase
                self._collect(ended.pop())
            if self._finished:
                yield self._finished.popleft()

    def close(self) -> None:
        """Cancels the rest and waits until files that are being saved are complete."""
        atexit.unregister(self.close)
        self._cancelled.set()
        running = [*self._loading, *self._computing, *self._saving]
        for future in running:
            future.cancel()
        started = time.monotonic()
        wait(self._saving, SAVE_GRACE_S)
        wait(running, max(0.0, started + OTHER_GRACE_S - time.monotonic()))
        for threads in (self._loaders, self._device, self._savers):
            threads.shutdown()
        gc.unfreeze()
        for key in list(self._noted):
            self._end(key)

    def _submit(self, waiting: deque[str], *, alone: bool) -> None:
        settings = self._settings
        while (
            waiting
            and len(self._loading) < settings.readers
            and len(self._loading) + len(self._loaded) < settings.waiting
            and sum(item.pixels for item in list(self._loaded)) < settings.waiting_px
        ):
            key = waiting.popleft()
            self._loading[self._loaders.submit(self._load, key, alone)] = key
        # One call runs and one waits: it takes all that is loaded when it starts, without waiting for the caller.
        while (
            self._loaded
            and len(self._computing) < 2
            and len(self._saving) < settings.waiting
            and sum(pixels for _, pixels in self._saving.values()) < settings.waiting_px
        ):
            self._computing.add(self._device.submit(self._compute_next))

    def _load(self, key: str, alone: bool) -> Loaded | Done[Result]:
        if self._in_flight is not None:
            self._noted.add(key)
            self._in_flight.begin(key, alone=alone)
        return self._work.load(key)

    def _compute_next(self) -> list[_Item]:
        """Computes loaded slides, up to ``group_px``; runs in the computing thread."""
        group: list[_Item] = []
        budget = self._settings.group_px
        while self._loaded and (not group or self._loaded[0].pixels <= budget):
            group.append(self._loaded.popleft())
            budget -= group[-1].pixels
        if group and not self._opened:
            self._work.open(self._check)
            self._opened = True
            # Outlines are many small lists; without this, each garbage collection would also scan all libraries'
            # objects.
            gc.freeze()
        return self._compute(group) if group else []

    def _compute(self, group: list[_Item]) -> list[_Item]:
        try:
            results = self._work.compute([item.content for item in group])
            if len(results) != len(group):
                raise ValueError(f"{len(group)} slides were computed and {len(results)} results came back.")
            return [
                _Item(item.key, item.pixels, item.token, result) for item, result in zip(group, results, strict=True)
            ]
        except Exception as error:
            self._check()  # an error of a cancelled computation does not count as the slide's
            # The frames of the failed call hold its memory, also on the device, which the next slide needs.
            traceback.clear_frames(error.__traceback__)
            if len(group) == 1:
                return [_Item(group.pop().key, 0, None, None, error)]
        # One of the slides is bad, or together they need too much memory: each is tried alone.
        computed = []
        while group:
            computed += self._compute([group.pop(0)])
        return computed

    def _check(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _collect(self, future: Future[Any]) -> None:
        """Passes the outcome of a finished phase on to the next phase."""
        if future in self._computing:
            self._computing.remove(future)
            for item in future.result():  # an error raised here is that of `open` and ends the batch
                if item.error is not None:
                    self._finish(item.key, None, item.error)
                else:
                    saving = self._savers.submit(self._work.save, item.key, item.content, item.token)
                    self._saving[saving] = item.key, item.pixels
            return
        loading = future in self._loading
        key = self._loading.pop(future) if loading else self._saving.pop(future)[0]
        try:
            outcome = future.result()
        except Exception as error:
            self._finish(key, None, error)
            return
        if isinstance(outcome, Loaded):
            self._loaded.append(_Item(key, outcome.pixels, outcome.token, outcome.content))
        else:
            self._finish(key, outcome.result if isinstance(outcome, Done) else outcome, None)

    def _finish(self, key: str, result: Result | None, error: Exception | None) -> None:
        if error is not None:
            # A caller that keeps errors must not keep the slides in their frames.
            traceback.clear_frames(error.__traceback__)
        self._end(key)
        self._finished.append(Finished(key, result, error))

    def _end(self, key: str) -> None:
        if self._in_flight is not None:
            self._noted.discard(key)
            self._in_flight.end(key)


class _Threads(Executor):
    """An executor with daemon threads, so that an endless computation cannot keep a cancelled process alive."""

    def __init__(self, name: str, number: int) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._number = number
        for _ in range(number):
            threading.Thread(target=self._run, name=f"slides-{name}", daemon=True).start()

    def submit(self, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, partial(call, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads after the calls submitted so far; does not wait for them."""
        for _ in range(self._number):
            self._calls.put(None)

    def _run(self) -> None:
        while (submitted := self._calls.get()) is not None:
            future, call = submitted
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            del submitted, future, call  # they refer to a slide
