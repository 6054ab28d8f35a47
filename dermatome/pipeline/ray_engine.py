"""The slide engine on a Ray cluster: actors on any of its nodes, a GPU for each where the cluster has some.

Work is sent to them pickled, so `dermatome` in the same version must be installed on every node; nothing else of the
platform is needed there. Files are the work's own matter: the data root must be one that all nodes see.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import queue
import socket
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from dermatome.errors import BadSetting
from dermatome.pipeline.pool import Broken, Died, Member, Message, Pool, Wants
from dermatome.pipeline.work import Finished, SlideWork, Stopped, WorkerDied, WorkerOptions, portable
from dermatome.pipeline.worker import WRITERS_GRACE_S, Worker

Made = TypeVar("Made")

FIRST_WORKER_S = 900.0
"""How long a run waits for its first worker: a cluster that grows on demand takes minutes to get a machine."""

SILENT_S = 30.0
"""After so long without a word from any worker, the cluster is asked whether it is there: a slide may take longer."""
ANSWER_S = 120.0
"""How long that may take. A head that is started again is back within it."""


@dataclass(frozen=True)
class Share:
    """What each worker gets of the cluster.

    Attributes:
        workers: how many there are.
        cpus: of one node, for each.
        gpus: of one node, for each; 0 where the cluster has none, a fraction where workers must share them.
    """

    workers: int
    cpus: int
    gpus: float


@dataclass(frozen=True)
class RayEngine:
    """Maps work over slides with actors of a Ray cluster.

    Attributes:
        address: of the cluster's head, such as ``10.0.0.1:6379``; ``auto`` is the cluster this machine belongs to; None
            is that one if there is one, and this machine alone otherwise.
        workers: how many; 0 is one for each GPU, or for each node where there is no GPU.
        options: of each worker.
    """

    address: str | None = None
    workers: int = 0
    options: WorkerOptions = field(default_factory=WorkerOptions)

    def map(self, work: SlideWork[Any, Any, Made], keys: Sequence[str]) -> Generator[Finished[Made], None, None]:
        """See :meth:`dermatome.pipeline.work.Engine.map`.

        Raises:
            BadSetting: there is no such cluster, or it is too small for so many workers.
            WorkerDied: no worker came up, or one after the other died.
        """
        if not keys:
            return
        _connect(self.address)
        share = _share(_nodes(), self.workers)
        share = replace(share, workers=min(share.workers, len(keys)))
        options = replace(self.options, threads=self.options.threads or share.cpus, device_index=None)
        pool = _Actors(work, share, options, keys)
        try:
            yield from pool.results()
        except BaseException:
            pool.stop(cancel=True)
            raise
        pool.stop(cancel=False)


def _connect(address: str | None) -> None:
    """Joins the cluster, once for each process."""
    import ray

    if ray.is_initialized():
        return
    # Ray reports its use to its makers, and opens a web page without a login, unless told otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(address)
        ray.init(address=address, include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise BadSetting(
            f"There is no Ray cluster at {address or 'this machine'} ({str(error).splitlines()[0]}): start one, or "
            "correct the slide engine's ray_address."
        ) from error


def _knock(address: str | None) -> None:
    """Asks at a plain ``host:port`` whether anybody is there; Ray itself would wait for minutes."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "://" not in host:
        socket.create_connection((host, int(port)), timeout=20).close()


def _nodes() -> list[tuple[int, int]]:
    """CPUs and GPUs of each node that is up."""
    ray: Any = importlib.import_module("ray")
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in resources]


def _share(nodes: Sequence[tuple[int, int]], workers: int) -> Share:
    """Divides a cluster between workers, as evenly as whole CPUs of single nodes allow.

    Args:
        nodes: CPUs and GPUs of each.
        workers: how many; 0 is one for each GPU, or for each node where there is no GPU.

    Raises:
        BadSetting: there are not that many CPUs.
    """
    gpus = sum(node_gpus for _, node_gpus in nodes)
    if gpus:
        nodes = [node for node in nodes if node[1]]
        wanted = workers or gpus
        on_one = math.ceil(wanted / gpus)
        cpus = min(max(1, node_cpus // (node_gpus * on_one)) for node_cpus, node_gpus in nodes)
        return Share(wanted, cpus, 1 / on_one)
    wanted = workers or sum(node_cpus > 0 for node_cpus, _ in nodes)
    for cpus in range(max((node_cpus for node_cpus, _ in nodes), default=0), 0, -1):
        if wanted and sum(node_cpus // cpus for node_cpus, _ in nodes) >= wanted:
            return Share(wanted, cpus, 0)
    raise BadSetting(
        f"The Ray cluster has {sum(node_cpus for node_cpus, _ in nodes)} CPUs and {wanted} slide workers are asked "
        "for: set the engine's workers to fewer, or add nodes."
    )


class _Seat:
    """What an actor is: one worker, which talks to the engine through two queues."""

    def __init__(self, work: SlideWork[Any, Any, Any], options: WorkerOptions) -> None:
        self._worker: Worker[Any] = Worker(work, options)
        self._keys: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work_on, daemon=True)
        self._thread.start()

    def listen(self) -> list[Message]:
        """Waits until there is something to say, and says all there is."""
        messages = [self._said.get()]
        while not self._said.empty():
            messages.append(self._said.get())
        return messages

    def give(self, key: str | None) -> None:
        """Takes a key, or None: there are no more."""
        self._keys.put(key)

    def end(self, cancel: bool) -> None:
        """Returns when the worker has ended, its files whole."""
        if cancel:
            self._worker.cancel()
        self._keys.put(None)
        self._thread.join(WRITERS_GRACE_S + 1)

    def _work_on(self) -> None:
        try:
            with closing(self._worker.run(self._asked_for())) as results:
                for one in results:
                    self._said.put(Finished(one.key, one.result, portable(one.error)) if one.error else one)
        except Stopped:
            pass
        except Exception as error:
            self._said.put(Broken(portable(error)))

    def _asked_for(self) -> Iterator[str]:
        while True:
            self._said.put(Wants())
            key = self._keys.get()
            if key is None:
                return
            yield key


@dataclass(kw_only=True)
class _Actor(Member):
    """An actor, and what it is about to say."""

    handle: Any
    saying: Any


class _Actors(Pool[_Actor]):
    """Workers that are actors of the cluster this process has joined."""

    worker_name = "Ray worker"

    def __init__(
        self, work: SlideWork[Any, Any, Any], share: Share, options: WorkerOptions, keys: Sequence[str]
    ) -> None:
        super().__init__(share.workers, keys)
        self._ray: Any = importlib.import_module("ray")  # its decorators and calls are not typed
        self._share, self._options = share, options
        self._began, self._anyone = time.monotonic(), False
        self._answered = self._began
        # Once into the cluster's memory, not once for each worker that is started.
        self._work = self._ray.put(work)
        self._class = self._ray.remote(_Seat).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            scheduling_strategy="SPREAD",
            max_concurrency=3,  # listening, giving and ending never wait for one another
            max_restarts=0,  # the pool starts anew: it knows which slides were lost
        )

    def start(self, seat: int) -> _Actor:
        handle = self._class.remote(self._work, self._options)
        return _Actor(seat=seat, handle=handle, saying=handle.listen.remote())

    def heard(self, members: Sequence[_Actor]) -> list[tuple[_Actor, Message]]:
        said: list[Any] = []
        while not said:
            said, _ = self._ray.wait([one.saying for one in members], num_returns=len(members), timeout=0)
            if not said:
                said, _ = self._ray.wait([one.saying for one in members], num_returns=1, timeout=5)
            if not said and not self._anyone and time.monotonic() > self._began + FIRST_WORKER_S:
                raise WorkerDied(
                    f"No worker began within {FIRST_WORKER_S:.0f} s: the Ray cluster has no node with "
                    f"{self._share.cpus} CPUs and {self._share.gpus:g} GPUs free; see `ray status`, or set the slide "
                    "engine's workers to fewer."
                )
            if not said and time.monotonic() > self._answered + SILENT_S:
                self._ask_cluster()
        self._anyone, self._answered = True, time.monotonic()
        return [(one, message) for one in members if one.saying in said for message in self._listen(one)]

    def _ask_cluster(self) -> None:
        """Raises WorkerDied where the cluster is no longer there; waiting for its workers would never end."""
        answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(any(node["Alive"] for node in self._ray.nodes()))
            except Exception:  # Ray raises errors of many kinds, and what it means is said below
                answers.put(False)

        threading.Thread(target=ask, daemon=True).start()
        try:
            there = answers.get(timeout=ANSWER_S)
        except queue.Empty:
            there = False
        if not there:
            self._members = []  # they could not be told anything, and trying would not end either
            raise WorkerDied(
                f"The Ray cluster is gone: no worker said anything, and its head did not answer within {ANSWER_S:.0f} "
                "s; see `ray status`, start it again, and re-execute the run."
            )
        self._answered = time.monotonic()

    def _listen(self, member: _Actor) -> list[Message]:
        try:
            messages: list[Message] = self._ray.get(member.saying)
        except self._ray.exceptions.RayError as error:
            return [Died(f"died ({_why(error)})")]
        member.saying = member.handle.listen.remote()
        return messages

    def tell(self, member: _Actor, key: str | None) -> None:
        member.handle.give.remote(key)

    def stop(self, *, cancel: bool) -> None:
        # One that the cluster has no room for yet would never answer.
        ending = [member.handle.end.remote(cancel) for member in self._members if member.asked]
        if ending:
            self._ray.wait(ending, num_returns=len(ending), timeout=WRITERS_GRACE_S + 2)
        for member in self._members:
            self._ray.kill(member.handle)
        self._members = []


def _why(error: Exception) -> str:
    """The part of Ray's many lines that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if "died" in line.lower() or "killed" in line.lower() or "exit" in line.lower()]
    return (said or lines or [type(error).__name__])[-1].rstrip(".")[:200]
