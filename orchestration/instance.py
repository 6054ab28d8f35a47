"""Opens Dagster's instance, creates its storage if need be, and keeps a second platform from it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import filelock

from dermatome.errors import StorageFailed
from dermatome.storage.files import locked, write_atomic


@contextmanager
def open_instance() -> Iterator[dg.DagsterInstance]:
    """Opens the instance that the environment names.

    New SQLite storage is created under a lock. Of two processes at once, one can find the tables of the other before
    their version is written and write an older version beside it, after which no process can open the storage ("more
    than one head").
    """
    storage = Path(os.environ["DERMATOME_DAGSTER_STORAGE"])
    storage.mkdir(parents=True, exist_ok=True)
    with locked(storage / "opening.lock"):
        instance = dg.DagsterInstance.get()
    with instance:
        yield instance


@contextmanager
def only_platform() -> Iterator[None]:
    """Holds Dagster's storage for this platform: two daemons over one storage would start every run twice.

    Raises:
        StorageFailed: Another platform runs over the storage, or it cannot be written.
    """
    storage = Path(os.environ["DERMATOME_DAGSTER_STORAGE"])
    # The system releases the lock of a process that dies. The lock's own file is emptied by whoever tries to take it.
    lock, holder = filelock.FileLock(storage / "platform.lock", fallback_to_soft=False), storage / "platform.pid"
    try:
        storage.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        pid = holder.read_text() if holder.is_file() else "unknown"
        raise StorageFailed(
            f"Another platform runs over {storage} (process {pid}): use that one, end it first, or give this one "
            "another data root."
        ) from error
    except OSError as error:
        raise StorageFailed(f"{storage} cannot be locked ({error.strerror}): check its rights and its disk.") from error
    try:
        write_atomic(holder, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
        holder.unlink(missing_ok=True)
    finally:
        lock.release()
