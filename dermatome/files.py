"""Files written whole or not at all, their sha256, and ids that cannot leave their folder."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dermatome.errors import MissingInput, StorageFailed

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
        if error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
        ):
            raise StorageFailed(
                f"Could not write {path}: {os.strerror(error.errno)}; free or enlarge the disk, or check the rights "
                "of the folder, and run this again."
            ) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> Path:
    """Writes ``data`` to ``path`` whole (see :func:`whole_file`) and returns ``path``."""
    with whole_file(path) as file:
        file.write(data)
    return path
