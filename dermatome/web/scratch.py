"""The folder in which the app keeps uploads and results, and the sweep of those that killed apps left behind."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_PREFIX = "dermatome-web-"
_LOCK_FILE = "lock"
_UNLOCKED_S = 1


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Makes a folder that is deleted when the block ends, and locked until then, so that no other app deletes it."""
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder,
        FileLock(Path(folder) / _LOCK_FILE, fallback_to_soft=False),
    ):
        yield Path(folder)


def sweep_scratch_folders() -> None:
    """Deletes the folders of apps that were killed: those that no living process has locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            # A folder that was made this moment may not have been locked yet.
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < _UNLOCKED_S:
                continue
            with FileLock(folder / _LOCK_FILE, blocking=False, fallback_to_soft=False):
                shutil.rmtree(folder)
        except (OSError, Timeout):  # gone meanwhile, another user's, or in use
            continue
