"""One writer at a time for a place on a disk or NFS: a lock on a file beside it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the only lock on the file ``path``, which is there meanwhile; ending, or dying, lets go."""
    descriptor = _open_locked(path)
    try:
        yield
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _open_locked(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file, and one opened to be written: NFS has no locks on folders, nor on what may only be read.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if is_still(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def is_still(descriptor: int, path: Path) -> bool:
    """Whether ``path`` is the open file; whoever held the lock before may have deleted it, and another made one."""
    try:
        # Opened again rather than asked for by name: NFS answers the one from the server, the other from a cache.
        now = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), os.fstat(now))
    finally:
        os.close(now)
