"""The slide engine on one machine: this process, or several worker processes beside it, a GPU for each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import connection
from typing import Any, TypeVar

from dermatome.errors import BadSetting
from dermatome.pipeline.pool import Died, Member, Message, Pool
from dermatome.pipeline.process import serve
from dermatome.pipeline.work import Finished, SlideWork, WorkerOptions
from dermatome.pipeline.worker import WRITERS_GRACE_S, Worker

Made = TypeVar("Made")


@dataclass(kw_only=True)
class _Process(Member):
    """A worker process, and the pipe to it."""

    process: Any
    pipe: Any


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
        """See :meth:`dermatome.pipeline.work.Engine.map`."""
        workers = self.workers[: max(1, len(keys))]
        if len(workers) == 1:
            yield from Worker(work, workers[0]).run(keys)
            return
        pool = _Processes(work, workers, keys)
        try:
            yield from pool.results()
        except BaseException:
            pool.stop(cancel=True)
            raise
        pool.stop(cancel=False)


class _Processes(Pool[_Process]):
    """Worker processes of this machine."""

    worker_name = "worker process"

    def __init__(self, work: SlideWork[Any, Any, Any], workers: Sequence[WorkerOptions], keys: Sequence[str]) -> None:
        super().__init__(len(workers), keys)
        self._work, self._options = work, workers

    def start(self, seat: int) -> _Process:
        context = multiprocessing.get_context("spawn")  # a forked process has locks of threads that it does not have
        ours, theirs = context.Pipe()
        process = context.Process(
            target=serve, args=(theirs, self._work, self._options[seat]), name=f"slides-{seat}", daemon=True
        )
        process.start()
        theirs.close()
        return _Process(seat=seat, process=process, pipe=ours)

    def heard(self, members: Sequence[_Process]) -> list[tuple[_Process, Message]]:
        said = connection.wait([one.pipe for one in members])
        return [(one, self._listen(one)) for one in members if one.pipe in said]

    def _listen(self, member: _Process) -> Message:
        try:
            message: Message = member.pipe.recv()
        except (EOFError, OSError):
            member.process.join()
            member.pipe.close()
            return Died(_how_it_ended(member.process.exitcode))
        return message

    def tell(self, member: _Process, key: str | None) -> None:
        with suppress(OSError):
            member.pipe.send(key)

    def stop(self, *, cancel: bool) -> None:
        for member in self._members:
            if cancel:
                member.pipe.close()
                member.process.terminate()
        until = time.monotonic() + WRITERS_GRACE_S + 2
        for member in self._members:
            member.process.join(max(0.0, until - time.monotonic()))
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
            member.pipe.close()
        self._members = []


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
