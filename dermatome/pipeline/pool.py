"""Several workers over one list of keys, wherever they run: who gets which key, and what becomes of a dead one's.

A slide that was in flight when its worker died is tried once more, alone with a worker. If that one dies too, the slide
fails; the others go on. What a worker is (a process, an actor on another machine) is for subclasses to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from dermatome.pipeline.work import Finished, WorkerDied

DEATHS_IN_A_ROW = 10
"""So many workers of a seat that die one after another, with no slide finished in between, are no slide's fault.

The second death of a suspect, alone with its worker, does not count: that one is its fault.
"""


@dataclass(frozen=True)
class Wants:
    """A worker has room for another key."""


@dataclass(frozen=True)
class Broken:
    """A worker cannot work at all."""

    error: Exception


@dataclass(frozen=True)
class Died:
    """A worker is no more.

    Attributes:
        how: the rest of a sentence that begins with the worker.
    """

    how: str


Message = Wants | Broken | Died | Finished[Any]


@dataclass(kw_only=True)
class Member:
    """A worker as its pool sees it.

    Attributes:
        seat: its place in the pool.
        in_flight: keys it was given and has not finished.
        wants: it waits for a key.
        asked: it has asked for a first one: it is up.
        alone: it was given one key that was in flight when another worker died, and gets no other beside it.
    """

    seat: int
    in_flight: set[str] = field(default_factory=set)
    wants: bool = False
    asked: bool = False
    alone: bool = False


Worker = TypeVar("Worker", bound=Member)


class Pool(ABC, Generic[Worker]):
    """Workers over one list of keys."""

    worker_name: str
    """What a worker is called in a sentence, such as "worker process"."""

    def __init__(self, seats: int, keys: Sequence[str]) -> None:
        self._waiting = deque(keys)
        self._suspects: deque[str] = deque()
        self._members: list[Worker] = []
        self._deaths = [0] * seats

    @abstractmethod
    def start(self, seat: int) -> Worker:
        """Begins a worker."""

    @abstractmethod
    def heard(self, members: Sequence[Worker]) -> list[tuple[Worker, Message]]:
        """Waits until a worker says something, or dies, and gives all there is, each worker's in its order."""

    @abstractmethod
    def tell(self, member: Worker, key: str | None) -> None:
        """Gives a worker a key, or None: there are no more. A dead one need not be noticed: it will be heard of."""

    @abstractmethod
    def stop(self, *, cancel: bool) -> None:
        """Waits for all workers to end; where it is a cancelling, they only finish the files they are writing."""

    def results(self) -> Iterator[Finished[Any]]:
        """Every key once, as it finishes.

        Raises:
            WorkerDied: one worker after the other dies.
            Exception: what opening the work raised in a worker.
        """
        for seat in range(len(self._deaths)):
            self._members.append(self.start(seat))
        while self._unfinished():
            self._feed()
            for member, message in self.heard(self._members):
                yield from self._take(member, message)
        for member in self._members:
            self.tell(member, None)

    def _unfinished(self) -> bool:
        return bool(self._waiting or self._suspects or any(one.in_flight for one in self._members))

    def _take(self, member: Worker, message: Message) -> Iterator[Finished[Any]]:
        if isinstance(message, Wants):
            member.wants = member.asked = True
        elif isinstance(message, Broken):
            raise message.error
        elif isinstance(message, Died):
            yield from self._bury(member, message.how)
        else:
            member.in_flight.remove(message.key)
            member.alone = False
            self._deaths[member.seat] = 0
            yield message

    def _feed(self) -> None:
        """Gives keys to workers that have room for them, the suspects first and each alone."""
        for member in sorted(self._members, key=lambda one: len(one.in_flight)):
            if not member.wants or member.alone:
                continue
            if self._suspects and not member.in_flight:
                member.alone = True
                self._give(member, self._suspects.popleft())
            elif self._waiting and not self._ahead(member):
                self._give(member, self._waiting.popleft())

    def _ahead(self, member: Worker) -> bool:
        """Whether it has so many more slides than another that these would wait for it alone at the end."""
        others = [len(one.in_flight) for one in self._members if (one.wants or not one.asked) and not one.alone]
        return len(member.in_flight) > min(others) + 2

    def _give(self, member: Worker, key: str) -> None:
        member.wants = False
        member.in_flight.add(key)
        self.tell(member, key)

    def _bury(self, member: Worker, how: str) -> Iterator[Finished[Any]]:
        self._members.remove(member)
        if member.alone:  # that slide's fault, and no sign that workers die of anything
            (key,) = member.in_flight
            yield Finished(key, None, WorkerDied(
                f"The {self.worker_name} {how} while it worked on {key}, twice, the second time on that slide alone: "
                "it may need more memory than there is; give the run more, or take the slide out."
            ))  # fmt: skip
        else:
            self._deaths[member.seat] += 1
            if self._deaths[member.seat] >= DEATHS_IN_A_ROW:
                raise WorkerDied(
                    f"{DEATHS_IN_A_ROW} times in a row a {self.worker_name} {how} before it finished a slide: look for "
                    "the cause in the system's log, or set the engine's workers to 1."
                )
            self._suspects.extend(sorted(member.in_flight))
        if self._unfinished():
            self._members.append(self.start(member.seat))
