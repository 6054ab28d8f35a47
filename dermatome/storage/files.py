"""Atomic files and folders, on a local disk or NFS: a reader sees either the old content or the new one.

Write with :func:`atomic_file`, :func:`write_atomic` and :func:`atomic_folder`. What the file system must offer, and how
to mount a bucket: docs/howto/data-root.md. Why there is no object store: docs/decisions/0009-data-root-is-a-folder.md.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import lzma
import os
import re
import shutil
import tempfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import filelock

from dermatome.errors import BadSetting, MissingInput, StorageFailed

ARCHIVE_ERRORS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, RuntimeError, EOFError, OSError
)  # fmt: skip
"""What reading a damaged, encrypted or unknown zip archive raises."""
SWAP_S = 0.2
"""Longest time that a folder is absent during its replacement, if the file system cannot exchange two folders, s."""

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_USER_CAN_FIX = (
    errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOLCK,
    errno.ENOSYS,
)  # fmt: skip
OLD = ".old"
"""Suffix of the hidden folder that holds the earlier content while a folder is replaced by two renames."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def safe_id(text: str, what: str = "id") -> str:
    """Returns ``text`` if it can be a file name and a partition key on every system.

    Raises:
        StorageFailed: It has characters other than letters, digits, ``.``, ``_`` and ``-``, does not start with a
            letter
            or digit, or is longer than 200 characters, so it could be a path outside its folder.
    """
    if not _SAFE_ID.fullmatch(text):
        raise StorageFailed(
            f"{what} {text[:80]!r} is not usable as a file name: use letters, digits, '.', '_' and '-', starting with "
            "a letter or digit, at most 200 characters."
        )
    return text


def usable_id(text: str) -> str:
    """``text`` as an id that :func:`safe_id` accepts, such as ``core-3-1`` for ``core 3 (1)``; may be empty."""
    if _SAFE_ID.fullmatch(text):
        return text
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", plain)[:200].strip("-._")


def local_path(place: str) -> Path:
    """The path that ``place`` names.

    Raises:
        BadSetting: It is an address such as ``s3://bucket/prefix``.
    """
    if "://" in place:
        raise BadSetting(
            f"{place!r} is not a folder or file of this machine: mount it as a folder (docs/howto/data-root.md)."
        )
    return Path(place)


def sha256_bytes(data: bytes) -> str:
    """The sha256 of ``data``, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The sha256 of the file at ``path``, hexadecimal, read in bounded memory.

    Raises:
        MissingInput: There is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise MissingInput(f"There is no file {path}: check the path, or run the stage that writes it.") from error


def names_in(path: Path) -> list[str]:
    """Sorted names of the files directly in a folder, without hidden ones; empty if there is no such folder."""
    return _names(path, folders=False)


def folders_in(path: Path) -> list[str]:
    """Sorted names of the folders directly in a folder, without hidden ones; empty if there is no such folder."""
    return _names(path, folders=True)


def _names(path: Path, *, folders: bool) -> list[str]:
    def counts(entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir() if folders else entry.is_file()
        except OSError:  # such as that of a link to itself
            return False

    with suppress(FileNotFoundError), os.scandir(path) as entries:
        return sorted(entry.name for entry in entries if not entry.name.startswith(".") and counts(entry))
    return []


def changed_in(path: Path, *, folders: bool = False) -> dict[str, float]:
    """Times at which the files directly in a folder were put there or changed, by name, without hidden files.

    The times are the file system's (ctime), as a copied file keeps its mtime. The file system's clock may differ from
    this machine's.

    Returns:
        Seconds since 1970 by name.
    """
    found = {}
    for name in names_in(path):
        with suppress(FileNotFoundError):  # removed meanwhile
            found[name] = (path / name).stat().st_ctime
    for folder in folders_in(path) if folders else ():
        with suppress(FileNotFoundError):
            came = (path / folder).stat().st_ctime  # files in a folder that is moved here keep their own times
            found |= {f"{folder}/{name}": max(came, at) for name, at in changed_in(path / folder).items()}
    return dict(sorted(found.items()))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file in a partition's folder, also while that folder is being replaced.

    Raises:
        FileNotFoundError: There is no such file.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        folder = path.parent
        if not folder.with_name(f".{folder.name}{OLD}").exists():
            raise
    time.sleep(SWAP_S)
    return path.read_bytes()


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Opens a binary file for writing that appears at ``path`` when the block ends without an exception.

    It writes a temporary file, calls fsync, and renames it.

    Raises:
        StorageFailed: The disk is full or the folder is not writable; nothing is left behind.
    """
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
            _fsync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes) -> Path:
    """Writes ``data`` to ``path`` atomically (see :func:`atomic_file`) and returns ``path``."""
    with atomic_file(path) as file:
        file.write(data)
    return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file ``path``, also between processes; the file is deleted at the end.

    The lock of a process that dies is released. A waiter that acquires the lock of a deleted file tries again.

    Raises:
        StorageFailed: The folder is not writable, or its file system has no locks.
    """
    lock = filelock.FileLock(path, fallback_to_soft=False)
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder that replaces ``path`` when the block ends without an exception and has put a file there.

    The new folder lies beside ``path`` under a hidden name. The old content of ``path`` stays until the replacement,
    and also if the block fails or leaves the folder empty. A second writer of the same ``path``, also in another
    process, waits for the first.
    Leftovers of a killed writer are deleted by the next one.
    """
    temporary, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}{OLD}")
    with ExitStack() as stack:
        with _named(path):
            stack.enter_context(locked(path.with_name(f".{path.name}.lock")))
            if old.exists() and not path.exists():  # a writer was killed between the two renames of _replace
                old.rename(path)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        try:
            yield temporary
            with _named(path):
                if any(temporary.iterdir()):
                    _replace(path, temporary, old)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace(path: Path, temporary: Path, old: Path) -> None:
    """Puts ``temporary`` in the place of ``path``, atomically if the file system can exchange folders."""
    if not path.exists():
        temporary.rename(path)
    elif not _exchange(temporary, path):
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        temporary.rename(path)
    shutil.rmtree(old, ignore_errors=True)
    _fsync_folder(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders atomically; returns False if the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _fsync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns an error of the block that the user can fix into a :class:`StorageFailed` that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _USER_CAN_FIX:
            raise
        raise StorageFailed(
            f"Could not write {path}: {os.strerror(error.errno)}; free or enlarge the disk, or check the permissions "
            "of the folder, and run this again."
        ) from error


def sweep(folder: Path, older_than_s: float) -> int:
    """Deletes the temporary files, temporary folders and locks that killed writers left in ``folder``.

    A folder whose writer was killed between its two renames is put back. What a running writer has locked is kept.

    A temporary file has no lock; it counts as abandoned once it is ``older_than_s`` old.

    Returns:
        Number of entries deleted or put back.
    """
    swept = 0
    try:
        hidden = sorted(name for name in os.listdir(folder) if name.startswith("."))  # noqa: PTH208 (as above)
    except (FileNotFoundError, NotADirectoryError):
        return 0
    for name in hidden:
        path = folder / name
        try:
            if name.endswith(".part") and path.is_file():
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()
                    swept += 1
            elif name.endswith((".part", OLD, ".lock")) and _is_ours(path):
                swept += _sweep_folder(folder / name[1:].rpartition(".")[0], path)
        except FileNotFoundError:  # another process deleted it meanwhile
            continue
    return swept


def _is_ours(left: Path) -> bool:
    """Whether the name is one that this module gives to temporary files and locks, not that of a user's file."""
    return bool(left.name[1:].rpartition(".")[0]) and left.is_dir() != left.name.endswith(".lock")


def _sweep_folder(path: Path, left: Path) -> bool:
    """Deletes ``left``, a leftover of the folder ``path``, if its writer is dead; returns whether it was."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        with filelock.FileLock(lock, blocking=False, fallback_to_soft=False):
            if left.name.endswith(OLD) and not path.exists():
                left.rename(path)
            elif left != lock:
                shutil.rmtree(left)
            lock.unlink()
    except filelock.Timeout:  # a running writer holds it
        return False
    return True
