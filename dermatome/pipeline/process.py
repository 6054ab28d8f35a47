"""A worker in a process of its own: what it says to the engine that started it, and when it ends.

It asks for one key at a time, when it has room to read it, and sends back what became of each. It ends when it is told
to (SIGTERM), when the engine's process is gone, and when there are no more keys.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from multiprocessing import connection, parent_process
from typing import Any

from dermatome.pipeline.pool import Broken, Wants
from dermatome.pipeline.work import Finished, SlideWork, Stopped, WorkerOptions, portable
from dermatome.pipeline.worker import WRITERS_GRACE_S, Worker


def serve(pipe: Any, work: SlideWork[Any, Any, Any], options: WorkerOptions) -> None:
    """What a worker's process does: works on the keys that come through ``pipe`` until there are no more."""
    worker: Worker[Any] = Worker(work, options)
    # A Ctrl-C goes to the whole group: the engine gets it too, and tells its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: worker.cancel())
    end_with_parent()
    sending = threading.Lock()

    def gone() -> Stopped:
        """The engine's process has cancelled, or is no more: there is nobody to tell."""
        worker.cancel()
        return Stopped()

    def send(message: object) -> None:
        try:
            with sending:
                pipe.send(message)
        except OSError:
            raise gone() from None

    def keys() -> Iterator[str]:
        while True:
            send(Wants())
            try:
                key = pipe.recv()
            except (OSError, EOFError):
                raise gone() from None
            if key is None:
                return
            yield key

    status = 1
    try:
        # Closed before anything else is done: that waits for files that are being written.
        with closing(worker.run(keys())) as results:
            for one in results:
                send(Finished(one.key, one.result, portable(one.error)) if one.error else one)
        status = 0
    except Stopped:
        pass
    except Exception as error:
        with suppress(Stopped):
            send(Broken(portable(error)))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # Not through the interpreter's own end, which would wait for, or break, a computation that was given up.
        os._exit(status)


def end_with_parent() -> None:
    """Ends this process, as SIGTERM does, when the one that started it is gone, also where that was killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(WRITERS_GRACE_S + 1)
    os._exit(1)
