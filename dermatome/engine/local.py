"""The slide engine on one machine: this process, or several worker processes beside it, a GPU for each."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from typing import Any, TypeVar

from dermatome.engine.pipeline import WRITERS_GRACE_S, Worker
from dermatome.engine.process import Broken, Wants, serve
from dermatome.engine.work import Finished, SlideWork, WorkerDied, WorkerOptions
from dermatome.errors import BadSetting

Made = TypeVar("Made")

_DEATHS_IN_A_ROW = 10
"""So many workers that die one after another, with no slide finished in between, are no slide's fault."""


@dataclass
class _Process:
    """A worker process as the engine sees it.

    Attributes:
        seat: its place in the engine's list of workers.
        in_flight: keys it was given and has not finished.
        wants: it waits for a key.
        asked: it has asked for a first one: it is up.
        alone: it was given one key that was in flight when another worker died, and gets no other beside it.
    """

    seat: int
    process: Any
    pipe: Any
    in_flight: set[str] = field(default_factory=set)
    wants: bool = False
    asked: bool = False
    alone: bool = False


@dataclass(frozen=True)
class LocalEngine:
    """Maps work over slides with 1..n workers on this machine.

    One worker runs in this process. Several run in processes of their own, which are started anew when they die; the
    slides such a worker had in flight are then tried once more, each alone.

    Attributes:
        workers: options of each worker: its phases, its GPU, its share of the threads.
    """

    workers: tuple[WorkerOptions, ...] = (WorkerOptions(),)

    def __post_init__(self) -> None:
        if not self.workers:
            raise BadSetting("The slide engine has no workers: set their number to 1 or more.")

    def map(self, work: SlideWork[Any, Any, Made], keys: Sequence[str]) -> Generator[Finished[Made], None, None]:
        """See :meth:`dermatome.engine.work.Engine.map`."""
        workers = self.workers[: max(1, len(keys))]
        if len(workers) == 1:
            yield from Worker(work, workers[0]).run(keys)
            return
        pool = _Pool(work, workers, keys)
        try:
            yield from pool.results()
        except BaseException:
            pool.stop(cancel=True)
            raise
        pool.stop(cancel=False)


class _Pool:
    """Worker processes over one list of keys."""

    def __init__(self, work: SlideWork[Any, Any, Any], workers: Sequence[WorkerOptions], keys: Sequence[str]) -> None:
        self._work, self._options = work, workers
        self._waiting = deque(keys)
        self._suspects: deque[str] = deque()
        self._processes: list[_Process] = []
        self._deaths = [0] * len(workers)

    def results(self) -> Iterator[Finished[Any]]:
        for seat in range(len(self._options)):
            self._start(seat)
        while self._waiting or self._suspects or any(one.in_flight for one in self._processes):
            self._feed()
            for worker in self._ready():
                yield from self._hear(worker)
        for worker in self._processes:
            _send(worker, None)

    def stop(self, *, cancel: bool) -> None:
        """Waits for all workers to end; where it is a cancelling, they only finish the files they are writing."""
        for worker in self._processes:
            if cancel:
                worker.pipe.close()
                worker.process.terminate()
        until = time.monotonic() + WRITERS_GRACE_S + 2
        for worker in self._processes:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._processes = []

    def _start(self, seat: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process has locks of threads that it does not have
        ours, theirs = context.Pipe()
        options = self._options[seat]
        process = context.Process(target=serve, args=(theirs, self._work, options), name=f"slides-{seat}", daemon=True)
        process.start()
        theirs.close()
        self._processes.append(_Process(seat, process, ours))

    def _ready(self) -> list[_Process]:
        """Workers that said something or ended; waits for one."""
        said = connection.wait([one.pipe for one in self._processes])
        return [one for one in self._processes if one.pipe in said]

    def _hear(self, worker: _Process) -> Iterator[Finished[Any]]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._bury(worker)
            return
        if isinstance(message, Wants):
            worker.wants = worker.asked = True
        elif isinstance(message, Broken):
            raise message.error
        else:
            worker.in_flight.remove(message.key)
            worker.alone = False
            self._deaths[worker.seat] = 0
            yield message

    def _feed(self) -> None:
        """Gives keys to workers that have room for them, the suspects first and each alone."""
        for worker in sorted(self._processes, key=lambda one: len(one.in_flight)):
            if not worker.wants or worker.alone:
                continue
            if self._suspects and not worker.in_flight:
                worker.alone = True
                self._give(worker, self._suspects.popleft())
            elif self._waiting and not self._ahead(worker):
                self._give(worker, self._waiting.popleft())

    def _ahead(self, worker: _Process) -> bool:
        """Whether it has so many more slides than another that these would wait for it alone at the end."""
        others = [len(one.in_flight) for one in self._processes if (one.wants or not one.asked) and not one.alone]
        return len(worker.in_flight) > min(others) + 2

    def _give(self, worker: _Process, key: str) -> None:
        worker.wants = False
        worker.in_flight.add(key)
        _send(worker, key)

    def _bury(self, worker: _Process) -> Iterator[Finished[Any]]:
        worker.process.join()
        worker.pipe.close()
        self._processes.remove(worker)
        self._deaths[worker.seat] += 1
        how = _how_it_ended(worker.process.exitcode)
        if self._deaths[worker.seat] >= _DEATHS_IN_A_ROW:
            raise WorkerDied(
                f"{_DEATHS_IN_A_ROW} worker processes in a row {how} before they finished a slide: look for the cause "
                "in the system's log, or set the engine's workers to 1."
            )
        if worker.alone:
            (key,) = worker.in_flight
            yield Finished(key, None, WorkerDied(
                f"The worker process {how} while it worked on {key}, twice, the second time on that slide alone: it "
                "may need more memory than there is; give the run more, or take the slide out."
            ))  # fmt: skip
        else:
            self._suspects.extend(sorted(worker.in_flight))
        if self._waiting or self._suspects or any(one.in_flight for one in self._processes):
            self._start(worker.seat)


def _send(worker: _Process, key: str | None) -> None:
    # One that has just died cannot be told; that it died is heard next, and its keys get another try.
    with suppress(OSError):
        worker.pipe.send(key)


def _how_it_ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"died of signal {-status}" + (" (killed, perhaps for its memory)" if status == -9 else "")
    return f"died with status {status}"


def share_out(options: WorkerOptions, workers: int, threads: int, gpus: int) -> tuple[WorkerOptions, ...]:
    """Options of each of ``workers``: they share the CPU threads evenly, and take the GPUs in turn.

    Args:
        options: of every worker.
        workers: how many there are.
        threads: of all of them together.
        gpus: of the machine, 0 where the device is the CPU.
    """
    share = max(1, threads // workers)
    return tuple(
        replace(options, threads=share, device_index=number % gpus if gpus else None) for number in range(workers)
    )
