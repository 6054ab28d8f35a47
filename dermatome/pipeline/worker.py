"""One worker: the phases of a stage's work on many slides, overlapped in one process, in bounded memory.

Reading threads run ahead, one thread keeps the device busy, writing threads follow behind. All share one lock; how much
waits between two phases is bounded, so memory does not grow with the number of slides.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dermatome.pipeline.work import AlreadyMade, Finished, Seat, SlideWork, Stopped, WorkerOptions

Made = TypeVar("Made")

WRITERS_GRACE_S = 10.0
"""How long a cancelled run waits for files that are being written to be whole."""
OTHERS_GRACE_S = 2.0
"""How long it waits for slides that are being read or computed; they leave nothing behind."""


@dataclass
class _Waiting:
    """Slides between two phases."""

    slides: deque[tuple[str, Any, int]] = field(default_factory=deque)
    pixels: int = 0

    def put(self, key: str, content: Any, pixels: int) -> None:
        self.slides.append((key, content, pixels))
        self.pixels += pixels

    def take(self) -> tuple[str, Any, int]:
        taken = self.slides.popleft()
        self.pixels -= taken[2]
        return taken

    def full(self, options: WorkerOptions) -> bool:
        return len(self.slides) >= options.waiting or self.pixels >= options.waiting_px


class Worker(Generic[Made]):
    """Works on slides in this process. Its work is opened once, for all of its runs."""

    def __init__(self, work: SlideWork[Any, Any, Made], options: WorkerOptions) -> None:
        self._work, self._options = work, options
        self._opened = self._cancelled = False
        self._run: _Run[Made] | None = None

    def run(self, keys: Iterable[str]) -> Generator[Finished[Made], None, None]:
        """Yields each key once, as it finishes; closing the iterator, or an interrupt while it waits, cancels.

        Args:
            keys: taken one at a time, no sooner than there is room; taking one may block.

        Raises:
            Exception: what opening the work raised. Errors of single slides are in what is yielded.
        """
        run = self._run = _Run(self._work, self._options, keys, self._open)
        if self._cancelled:
            return
        try:
            run.start()
            yield from run.finished()
        finally:
            run.stop()

    def cancel(self) -> None:
        """Tells the run under way to end, and lets none begin; does not wait, so signal handlers may call it."""
        self._cancelled = True
        if self._run is not None:
            self._run.cancel()

    def close(self) -> None:
        """Cancels, and waits until what was being written is whole."""
        self.cancel()
        if self._run is not None:
            self._run.stop()

    def _open(self) -> None:
        if not self._opened:
            self._work.open(Seat(self._options.device_index, self._options.threads, self._check))
            self._opened = True

    def _check(self) -> None:
        # Of the run under way, and not of the one that opened the work: that has ended.
        if self._run is not None:
            self._run.check()


class _Run(Generic[Made]):
    """One pass over keys."""

    def __init__(
        self,
        work: SlideWork[Any, Any, Made],
        options: WorkerOptions,
        keys: Iterable[str],
        open_work: Callable[[], None],
    ) -> None:
        self._work, self._options, self._open_work = work, options, open_work
        self._keys, self._taking = iter(keys), threading.Lock()
        self._changed = threading.Condition()
        self._read, self._found = _Waiting(), _Waiting()
        self._finished: deque[Finished[Made]] = deque()
        self._unfinished, self._reading, self._exhausted = 0, 0, False
        self._broken: BaseException | None = None
        self._stopped = False
        names = [("read", self._read_some)] * options.readers + [("write", self._write_some)] * options.writers
        # Daemons: a slide in the middle of a long computation must not keep a cancelled process alive.
        self._threads = [
            threading.Thread(target=self._guarded, args=(body,), name=f"slides-{name}", daemon=True)
            for name, body in [*names, ("device", self._compute_some)]
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finished(self) -> Iterator[Finished[Made]]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._finished or self._broken or self._stopped or self._done())
                if self._finished:
                    one = self._finished.popleft()
                    self._changed.notify_all()
                elif self._broken is not None:
                    raise self._broken
                else:
                    return
            yield one

    def cancel(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def stop(self) -> None:
        self.cancel()
        start = time.monotonic()
        for thread in (thread for thread in self._threads if thread.is_alive()):
            grace_s = WRITERS_GRACE_S if thread.name == "slides-write" else OTHERS_GRACE_S
            thread.join(max(0.0, start + grace_s - time.monotonic()))

    def check(self) -> None:
        if self._stopped:
            raise Stopped

    def _done(self) -> bool:
        return self._exhausted and self._unfinished == 0 and not self._reading

    def _guarded(self, body: Callable[[], None]) -> None:
        try:
            body()
        except Stopped:
            pass  # the run's own stop is all it can come from
        except BaseException as error:
            with self._changed:
                self._broken = self._broken or error
                self._changed.notify_all()

    def _until(self, condition: Callable[[], object]) -> None:
        """Waits, with the lock held, until ``condition`` or the run is stopped."""
        self._changed.wait_for(lambda: self._stopped or condition())
        self.check()

    def _finish(self, key: str, result: Made | None, error: Exception | None) -> None:
        if error is not None:
            # Whoever collects errors must not collect the slides that the frames of what failed hold.
            traceback.clear_frames(error.__traceback__)
        with self._changed:
            self._unfinished -= 1
            self._finished.append(Finished(key, result, error))
            self._changed.notify_all()

    def _read_some(self) -> None:
        options = self._options
        while True:
            with self._changed:
                # Results that nobody takes hold the readers back, so that they are bounded too.
                self._until(lambda: not self._read.full(options) and len(self._finished) < options.waiting)
                self._reading += 1
            try:
                with self._taking:
                    self.check()
                    if self._exhausted:
                        return
                    key = next(self._keys, None)
                    with self._changed:
                        self._unfinished += key is not None
                        self._exhausted = key is None
                if key is None:
                    return
                self._read_one(key)
            finally:
                with self._changed:
                    self._reading -= 1
                    self._changed.notify_all()

    def _read_one(self, key: str) -> None:
        try:
            read = self._work.read(key)
            pixels = 0 if isinstance(read, AlreadyMade) else self._work.pixels(read)
        except Exception as error:
            self._finish(key, None, error)
            return
        if isinstance(read, AlreadyMade):
            self._finish(key, read.made, None)
            return
        with self._changed:
            self._read.put(key, read, pixels)
            self._changed.notify_all()

    def _compute_some(self) -> None:
        while True:
            with self._changed:
                self._until(lambda: self._read.slides and not self._found.full(self._options))
                group = [self._read.take()]
                budget = self._options.group_px - group[0][2]
                while self._read.slides and self._read.slides[0][2] <= budget:
                    group.append(self._read.take())
                    budget -= group[-1][2]
                self._changed.notify_all()
            self._open_work()
            self._compute_group(group)
            # What was computed belongs to the writers now: held here, it would stay until the next group.
            del group

    def _compute_group(self, group: list[tuple[str, Any, int]]) -> None:
        found: list[Any] | None = None
        try:
            found = self._work.compute([read for _, read, _ in group])
            if len(found) != len(group):
                raise ValueError(f"{len(group)} slides were computed and {len(found)} results came back.")
        except Exception as error:
            self.check()
            found = None
            # The frames of what failed hold its memory, on the device too; what comes next needs it.
            traceback.clear_frames(error.__traceback__)
            if len(group) == 1:
                key = group[0][0]
                del group  # of this frame too
                self._finish(key, None, error)
                return
        if found is None:
            # One of them is bad, or all together are too much for the device: each has its own try. An error that is
            # collected holds this frame by way of its own: so the slides are taken out of it.
            while group:
                self._compute_group([group.pop(0)])
            return
        with self._changed:
            for (key, _, pixels), content in zip(group, found, strict=True):
                self._found.put(key, content, pixels)
            self._changed.notify_all()

    def _write_some(self) -> None:
        while True:
            with self._changed:
                self._until(lambda: self._found.slides)
                key, found, _ = self._found.take()
                self._changed.notify_all()
            try:
                made = self._work.write(key, found)
            except Exception as error:
                self._finish(key, None, error)
            else:
                self._finish(key, made, None)
            del found
