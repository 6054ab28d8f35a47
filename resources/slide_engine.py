"""One way over many partitions: each gives its own result or its own error, and none stops the others."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

import dagster as dg

T = TypeVar("T")


@dataclass(frozen=True)
class Finished(Generic[T]):
    """What became of one key: exactly one of ``result`` and ``error`` is set."""

    key: str
    result: T | None
    error: Exception | None


class SlideEngineResource(dg.ConfigurableResource):
    """Maps a function over partition keys in this process, in bounded memory.

    Network-bound stages (downloads) run ``at_once`` keys in threads; compute-bound stages run one key at a time, since
    torch already uses every core.
    """

    def map(self, function: Callable[[str], T], keys: Sequence[str], at_once: int = 1) -> Iterator[Finished[T]]:
        """Yields as keys finish. Only `Exception` is caught: an interrupted run stops at once."""
        if at_once <= 1:
            for key in keys:
                yield _run(function, key)
            return
        pool = ThreadPoolExecutor(at_once, thread_name_prefix="slide")
        try:
            waiting: set[Future[Finished[T]]] = set()
            remaining = iter(keys)
            while True:
                # A few keys ahead keep the threads busy; results nobody has taken yet stay bounded.
                for key in remaining:
                    waiting.add(pool.submit(_run, function, key))
                    if len(waiting) >= 2 * at_once:
                        break
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _run(function: Callable[[str], T], key: str) -> Finished[T]:
    try:
        return Finished(key, function(key), None)
    except Exception as error:
        return Finished(key, None, error)
