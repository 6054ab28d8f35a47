"""Quotas of uploads: for one browser within an hour, and for all browsers together."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from starlette.requests import HTTPConnection
from starlette.types import Scope

from dermatome.web.uploads import MIB, UploadLimits

COOKIE = "dermatome_browser"
MAX_FILES = 20_000
"""Number of files that may be on disk at the same time; an image with its results has about fourteen."""


class Browsers:
    """Identifies browsers by a cookie that only this process can issue."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def new_cookie(self) -> str:
        """Value of the cookie for a browser that has none."""
        name = secrets.token_hex(16)
        return f"{name}.{self._signature(name)}"

    def known(self, scope: Scope) -> str | None:
        """Name of the browser that sent a request, or None if it has no valid cookie."""
        name, _, signature = HTTPConnection(scope).cookies.get(COOKIE, "").partition(".")
        genuine = hmac.compare_digest(signature.encode(), self._signature(name).encode())
        return name if name and genuine else None

    def of(self, scope: Scope) -> str:
        """Name of the browser that sent a request; without a cookie, its address."""
        return self.known(scope) or f"address {(scope.get('client') or ['unknown'])[0]}"

    def _signature(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()


class UploadQuota:
    """Admits uploads within the limits of one browser and of the disk.

    ``folder`` is Gradio's folder of uploads and results; after ``kept_s`` seconds, files in it are deleted and uploads
    no longer count; ``clock`` returns the time in seconds since the epoch.
    """

    def __init__(
        self, folder: Path, limits: UploadLimits, kept_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.folder, self._limits, self._kept_s, self._clock = folder, limits, kept_s, clock
        self._admitted: dict[str, list[tuple[float, int]]] = {}
        self._coming_bytes = 0
        self._lock = threading.Lock()

    def admit(self, browser: str, size_bytes: int) -> str | None:
        """Reserves space for an upload, or returns the reason for a refusal; call :meth:`release` after the upload."""
        limits, now = self._limits, self._clock()
        with self._lock:
            counting = {
                name: [(when, size) for when, size in uploads if when >= now - self._kept_s]
                for name, uploads in self._admitted.items()
            }
            self._admitted = {name: uploads for name, uploads in counting.items() if uploads}
            files, on_disk = swept_size(self.folder, self._kept_s, now)
            earlier = self._admitted.setdefault(browser, [])
            if len(earlier) >= limits.max_uploads or sum(size for _, size in earlier) + size_bytes > limits.max_bytes:
                return (
                    f"This browser has uploaded {limits.max_uploads} images or {limits.max_bytes // MIB} MB within an "
                    "hour, which is its limit: try again later, or use the command line."
                )
            if files >= MAX_FILES or on_disk + self._coming_bytes + size_bytes > limits.max_total_bytes:
                return "The web app has as many uploads as it may keep: try again within an hour."
            earlier.append((now, size_bytes))
            self._coming_bytes += size_bytes
        return None

    def release(self, size_bytes: int) -> None:
        """Ends the reservation of an upload that is on disk or was interrupted."""
        with self._lock:
            self._coming_bytes -= size_bytes


def swept_size(folder: Path, older_than_s: float, now: float) -> tuple[int, int]:
    """Deletes old files in a folder, including those of interrupted uploads, which Gradio does not delete.

    Returns:
        Number of files that remain, and their size in bytes; 0 if the folder does not exist.
    """
    files = size = 0
    for parent, folders, names in os.walk(folder, topdown=False):  # a folder's content before the folder
        for name in (*folders, *names):
            path = f"{parent}/{name}"  # a Path for each takes four times as long
            try:
                found = os.lstat(path)
                old = now - found.st_ctime > older_than_s
                if stat.S_ISDIR(found.st_mode):
                    if old:
                        Path(path).rmdir()
                elif old:
                    Path(path).unlink()
                else:
                    files, size = files + 1, size + found.st_size
            except OSError:  # already deleted, or not empty
                continue
    return files, size
