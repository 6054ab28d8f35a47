"""What a slide engine is given and gives back: one stage's work in phases, and what became of each key.

The same work runs on every engine: in this process, in several of this machine, on a Ray cluster. So it is picklable,
and makes what is heavy (networks on a device) only in :meth:`SlideWork.open`.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from dermatome.errors import BadSetting, DermatomeError

Read = TypeVar("Read")
Found = TypeVar("Found")
Made = TypeVar("Made")
Made_co = TypeVar("Made_co", covariant=True)


class Stopped(BaseException):
    """The run was cancelled while a phase was at work; never a slide's own failure."""


class WorkerDied(DermatomeError):
    """A process that worked on slides ended without saying why."""


def _never() -> None:
    """Of a run that nobody cancels."""


@dataclass(frozen=True)
class Seat:
    """A worker's place on its machine.

    Attributes:
        device_index: which GPU is its own; None where it has none, or there is one only.
        threads: CPU threads for its networks; 0 where it may take all cores.
        check: raises :class:`Stopped` once the run is cancelled; long computations call it now and then.
    """

    device_index: int | None = None
    threads: int = 0
    check: Callable[[], None] = _never


@dataclass(frozen=True)
class AlreadyMade(Generic[Made]):
    """What ``read`` may return where nothing is left to do: the key is finished with ``made``."""

    made: Made


class SlideWork(Protocol[Read, Found, Made]):
    """One stage's work on slides, in phases that overlap for different slides. Picklable until it is opened."""

    def open(self, seat: Seat) -> None:
        """Networks on the device: called once in each worker, before its first ``compute``, in the same thread.

        What it raises ends the whole run, as no slide can be worked on.
        """
        ...

    def read(self, key: str) -> Read | AlreadyMade[Made]:
        """Fetches and decodes, ahead of the device, in several threads at once."""
        ...

    def pixels(self, read: Read) -> int:
        """How large what was read is, px: groups and queues are bounded by it."""
        ...

    def compute(self, reads: Sequence[Read]) -> list[Found]:
        """The device's part, for several slides at once where they are small, in one thread of the worker."""
        ...

    def write(self, key: str, found: Found) -> Made:
        """Post-processing and files, behind the device, in several threads at once."""
        ...


@dataclass(frozen=True)
class Finished(Generic[Made]):
    """What became of one key: exactly one of ``result`` and ``error`` is set."""

    key: str
    result: Made | None
    error: Exception | None


@dataclass(frozen=True)
class WorkerOptions:
    """How one worker overlaps its phases; none of it changes what is computed.

    Attributes:
        readers: threads that read ahead.
        writers: threads that write behind.
        waiting: at most this many slides wait between two phases.
        waiting_px: and as soon as they have this many pixels together, no more are read (or computed) until some have
            gone on. A slide larger than this still passes, alone.
        group_px: several slides are computed at once up to this many pixels together.
        device_index: see :class:`Seat`.
        threads: see :class:`Seat`.
    """

    readers: int = 2
    writers: int = 2
    waiting: int = 16
    waiting_px: int = 48_000_000
    group_px: int = 12_000_000
    device_index: int | None = None
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("readers", "writers", "waiting", "waiting_px", "group_px"):
            if getattr(self, name) < 1:
                raise BadSetting(f"The slide engine's setting {name} is {getattr(self, name)}: set it to 1 or more.")
        if self.threads < 0:
            raise BadSetting(f"The slide engine's threads are {self.threads}: set them to 0 (all cores) or more.")


class Engine(Protocol):
    """Works on many slides."""

    def map(self, work: SlideWork[Read, Found, Made], keys: Sequence[str]) -> Generator[Finished[Made], None, None]:
        """Yields each key once, as it finishes. Closing the generator cancels what is left.

        Raises:
            DermatomeError: the work could not be opened, or workers die faster than they work.
        """
        ...


def portable(error: Exception) -> Exception:
    """``error`` as it can be sent to another process, its traceback kept as a note.

    An error whose class does not survive pickling becomes a `RuntimeError` of the same words.
    """
    trace = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301, our own bytes
        if type(copy) is not type(error) or str(copy) != str(error):
            raise ValueError("it changed on its way")
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, DermatomeError):
        copy.add_note(f"In a worker process:\n{trace}")
    return copy
