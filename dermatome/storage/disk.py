"""Files and folders on a disk or NFS, written whole or not at all: how `dermatome.storage.files` works there.

NFS: a rename within a folder is one step for every machine; locks are `flock`, which Linux hands to an NFSv4 server as
byte-range locks. A mount without locks (`nolock`) keeps two processes of one machine apart, and not two machines.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from dermatome.errors import StorageFailed
from dermatome.storage.file_lock import is_still, locked

_MENDABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOLCK,
)
_OLD = ".old"
SWAP_S = 0.2
"""A folder that is swapped is not there for less than this."""
_READERS = 8
_READ_TOGETHER = 32


def read_bytes(path: Path) -> bytes:
    """See :func:`dermatome.storage.files.read_bytes`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        _wait_for_swap(path.parent)
    return path.read_bytes()


def _wait_for_swap(folder: Path) -> None:
    """Waits where ``folder`` may be between the two renames of :func:`whole_folder`."""
    if folder.with_name(f".{folder.name}{_OLD}").exists() and not folder.exists():
        time.sleep(SWAP_S)


def read_all(paths: Sequence[Path]) -> list[bytes | None]:
    """See :func:`dermatome.storage.files.read_all`."""
    parts = [paths[start : start + _READ_TOGETHER] for start in range(0, len(paths), _READ_TOGETHER)]
    with ThreadPoolExecutor(_READERS) as pool:  # over NFS each file waits for the network
        return [data for part in pool.map(_read_each, parts) for data in part]


def _read_each(paths: Sequence[Path]) -> list[bytes | None]:
    found: list[bytes | None] = []
    for path in paths:
        try:
            found.append(path.read_bytes())
        except FileNotFoundError:
            found.append(None)
    return found


def remove(path: Path) -> None:
    """See :func:`dermatome.storage.files.remove`."""
    path.unlink(missing_ok=True)


def names_in(path: Path) -> list[str]:
    """See :func:`dermatome.storage.files.names_in`."""
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        return [entry.name for entry in entries if entry.is_file()]
    return []


def changed_in(path: Path, folders: bool) -> dict[str, float]:
    """See :func:`dermatome.storage.files.changed_in`; not by mtime, which files bring along from elsewhere."""
    found = {}
    for name in names_in(path):
        with suppress(FileNotFoundError):  # it was taken out again meanwhile
            found[name] = (path / name).stat().st_ctime
    for folder in folders_in(path) if folders else ():
        with suppress(FileNotFoundError):
            came = (path / folder).stat().st_ctime  # files of a folder that is moved here keep their times
            found |= {f"{folder}/{name}": max(came, at) for name, at in changed_in(path / folder, False).items()}
    return found


def folders_in(path: Path) -> list[str]:
    """See :func:`dermatome.storage.files.folders_in`."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def names_below(path: Path) -> list[str]:
    """See :func:`dermatome.storage.files.names_below`."""
    return [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]


def partitions_in(path: Path, mark: str) -> list[str]:
    """Names of the folders in ``path`` that hold a file ``mark``, also of one that is being swapped just now."""
    try:
        entries = os.listdir(path)  # noqa: PTH208 (20,000 paths take ten times as long as their names)
    except FileNotFoundError:
        return []
    swapped = {name[1 : -len(_OLD)] for name in entries if name.startswith(".") and name.endswith(_OLD)}
    names = swapped | {name for name in entries if not name.startswith(".")}
    found = {name for name in names if (path / name / mark).is_file()}
    if not swapped <= found:
        time.sleep(SWAP_S)
        found |= {name for name in swapped if (path / name / mark).is_file()}
    return list(found)


def partition_versions(path: Path, mark: str, names: Sequence[str]) -> dict[str, str]:
    """See :func:`dermatome.storage.files.partition_versions`: what the disk says of each file."""
    found = {}
    for partition in partitions_in(path, mark):
        stats = []
        for name in (mark, *names):
            try:
                stat = (path / partition / name).stat()
                stats.append(f"{stat.st_ino:x}.{stat.st_mtime_ns:x}.{stat.st_size:x}")
            except FileNotFoundError:
                stats.append("")
        found[partition] = " ".join(stats)
    return found


def files_named_by(path: Path, record: bytes) -> Path:
    """See :func:`dermatome.storage.files.files_named_by`."""
    return path


def files_of(path: Path) -> Path:
    """See :func:`dermatome.storage.files.files_of`."""
    return path


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """See :func:`dermatome.storage.files.local_copy`."""
    yield path


@contextmanager
def local_folder(path: Path, names: Sequence[str]) -> Iterator[Path]:
    """See :func:`dermatome.storage.files.local_folder`; it is the place itself, which holds ``names`` and others."""
    _wait_for_swap(path)
    yield path


def put_bytes(path: Path, data: bytes) -> None:
    """See :func:`dermatome.storage.files.write_whole`."""
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """See :func:`dermatome.storage.files.whole_file`: temp file, fsync, rename."""
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


def move_whole(made: Path, path: Path) -> None:
    """See :func:`dermatome.storage.files.move_whole`."""
    try:
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(path)
    except OSError as error:
        raise _storage_failed(path, error) from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """See :func:`dermatome.storage.files.whole_folder`: filled beside its place, under a lock, then renamed."""
    temporary, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}{_OLD}")
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path.with_name(f".{path.name}.lock")))
            if old.exists() and not path.exists():  # killed between the two renames below
                old.rename(path)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        except OSError as error:
            raise _storage_failed(path, error) from error
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


def sweep(folder: Path, older_than_s: float) -> int:
    """Deletes what killed writers left in ``folder`` and nobody else would: temporary files and folders, locks.

    A folder that was killed between its two renames is put back. What a living writer holds the lock of stays.

    Args:
        folder: such as was given to :func:`whole_file` and :func:`whole_folder` as a path's parent.
        older_than_s: younger temporary files may be somebody's, as they have no lock, seconds.

    Returns:
        How many were dealt with.
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
            elif name.endswith((".part", _OLD, ".lock")) and _is_ours(path):
                swept += _sweep_folder(folder / name[1:].rpartition(".")[0], path)
        except FileNotFoundError:  # another process was done with it meanwhile
            continue
    return swept


def _is_ours(left: Path) -> bool:
    """Whether a name is what our writers leave, and not what somebody else's file or folder happens to be called."""
    return bool(left.name[1:].rpartition(".")[0]) and left.is_dir() != left.name.endswith(".lock")


def _sweep_folder(path: Path, left: Path) -> bool:
    """Deletes ``left`` of a folder ``path`` whose writer is dead; whether it was."""
    lock = path.with_name(f".{path.name}.lock")
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not is_still(descriptor, lock):
            return False
        if left.name.endswith(_OLD) and not path.exists():
            left.rename(path)
        elif left != lock:
            shutil.rmtree(left)
        lock.unlink()
    except BlockingIOError:  # a living writer has it
        return False
    finally:
        os.close(descriptor)
    return True
