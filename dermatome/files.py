"""Files written whole or not at all, their sha256, and ids that cannot leave their folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dermatome.errors import MissingInput, StorageFailed

_MENDABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def safe_id(text: str, what: str = "id") -> str:
    """``text`` if it is fit to be a file name and a partition key, on every system.

    Raises:
        StorageFailed: it has other characters than letters, digits, ``.``, ``_``, ``-``, or begins with one of those
            signs, or is longer than 200 characters: it could leave its folder.
    """
    if not _SAFE_ID.fullmatch(text):
        raise StorageFailed(
            f"{what} {text[:80]!r} is not usable as a file name: use letters, digits, '.', '_' and '-', starting with "
            "a letter or digit, at most 200 characters."
        )
    return text


def sha256_bytes(data: bytes) -> str:
    """The sha256 of ``data``, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of the file at ``path``, hexadecimal, read in bounded memory.

    Raises:
        MissingInput: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise MissingInput(f"There is no file {path}: check the path, or make it with the stage before.") from error


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write that appears at ``path`` only when the block ends well: temp file, fsync, rename.

    Raises:
        StorageFailed: the disk is full or the folder is not writable; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _storage_failed(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _storage_failed(path: Path, error: OSError) -> OSError | StorageFailed:
    """What to raise for ``error``: a sentence where a person can mend the cause, else the error itself."""
    if error.errno not in _MENDABLE:
        return error
    return StorageFailed(
        f"Could not write {path}: {os.strerror(error.errno)}; free or enlarge the disk, or check the rights of the "
        "folder, and run this again."
    )


def write_whole(path: Path, data: bytes) -> Path:
    """Writes ``data`` to ``path`` whole (see :func:`whole_file`) and returns ``path``."""
    with whole_file(path) as file:
        file.write(data)
    return path


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill that takes the place of ``path`` only when the block ends well.

    It lies beside ``path`` under a hidden name, so what was at ``path`` stays until then, and stays if the block fails.
    What a killed process left half-filled is emptied by the next one; a second process at the same ``path`` waits.

    Raises:
        StorageFailed: the disk is full or the folder is not writable.
    """
    temporary, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    with _locked_folder(temporary):
        _empty(temporary)
        try:
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        try:
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise _storage_failed(path, error) from error


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Makes ``folder`` and holds the only lock on it; ending, or dying, lets go."""
    try:
        descriptor = _open_locked(folder)
    except OSError as error:
        raise _storage_failed(folder, error) from error
    try:
        yield
    finally:
        os.close(descriptor)


def _open_locked(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Whoever held it before may have moved or deleted the folder: then this lock is on that one.
        try:
            if os.fstat(descriptor).st_ino == folder.stat().st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
