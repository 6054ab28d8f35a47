"""Copies on this machine's temporary disk of what lies in a bucket, and what killed processes left of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_PREFIX = "dermatome-bucket-"


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this machine, gone when the block ends; locked until then, so that nobody sweeps it."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as temporary:
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Path(temporary)
        finally:
            os.close(descriptor)


@contextmanager
def temporary_file() -> Iterator[IO[bytes]]:
    """A file of this machine with a name, likewise."""
    with tempfile.NamedTemporaryFile(prefix=_PREFIX, mode="w+b") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield file


def sweep_temporary(older_than_s: float) -> int:
    """Deletes the copies that killed processes left in this machine's temporary folder.

    Args:
        older_than_s: younger ones may be somebody's who has not locked them yet, seconds.

    Returns:
        How many there were.
    """
    swept = 0
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - path.lstat().st_mtime <= older_than_s:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            swept += 1
        except OSError:  # a living process has it
            continue
        finally:
            os.close(descriptor)
    return swept
