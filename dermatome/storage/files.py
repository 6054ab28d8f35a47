"""Files and folders written whole or not at all, on a disk, on NFS or in an object store alike.

A path here is a `pathlib.Path` (see `dermatome.storage.disk`), or a universal-pathlib `UPath` into an object store (see
`dermatome.storage.object_store`). Write through :func:`whole_file`, :func:`write_whole` and :func:`whole_folder`; read
small files with :func:`read_bytes`, and what a library wants a real path of through :func:`local_folder` and
:func:`local_copy`, which copy nothing where the files are on a disk already. Why so:
docs/decisions/0009-data-root-in-a-bucket.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from dermatome.errors import MissingInput, StorageFailed
from dermatome.storage import disk

if TYPE_CHECKING:
    from upath import UPath

    AnyPath = Path | UPath

SomePath = TypeVar("SomePath", bound="AnyPath")

RECORD_FILE = "record.parquet"
"""Written last into a partition's folder: where it is, the folder is whole."""

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


def sha256_file(path: AnyPath) -> str:
    """The sha256 of the file at ``path``, hexadecimal, read in bounded memory.

    Raises:
        MissingInput: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except FileNotFoundError as error:
        raise MissingInput(f"There is no file {path}: check the path, or make it with the stage before.") from error


def any_path(place: str) -> AnyPath:
    """The path that ``place`` names: ``s3://bucket/prefix``, or a path of this machine.

    Raises:
        BadSetting: another kind of address, or what S3 needs is not installed.
    """
    if "://" not in place:
        return Path(place)
    from dermatome.storage import s3

    return s3.path_of(place)


def _kind(path: AnyPath) -> Any:
    """The module that knows how files work where ``path`` is."""
    if isinstance(path, Path):
        return disk
    # s3fs takes a second to import, and most data roots are folders.
    from dermatome.storage import object_store

    return object_store


def read_bytes(path: AnyPath) -> bytes:
    """The file's bytes, in one request where it is in an object store.

    Raises:
        FileNotFoundError: there is none.
    """
    data: bytes = _kind(path).read_bytes(path)
    return data


def read_all(paths: Sequence[AnyPath]) -> list[bytes | None]:
    """The bytes of many small files, several at a time; None for one that is not there."""
    if not paths:
        return []
    found: list[bytes | None] = _kind(paths[0]).read_all(paths)
    return found


def remove(path: AnyPath) -> None:
    """Deletes the file at ``path`` if it is there."""
    _kind(path).remove(path)


def names_in(path: AnyPath) -> list[str]:
    """Names of the files directly in a folder, hidden ones left out, sorted; none where there is no such folder."""
    return sorted(name for name in _kind(path).names_in(path) if not name.startswith("."))


def changed_in(path: AnyPath, *, folders: bool = False) -> dict[str, float]:
    """When each file directly in a folder was put there or changed (seconds since 1970), by name, no hidden ones.

    It is the storage's clock that says so, whatever times the file brought along; that clock may be wrong, too.

    Args:
        path: the folder.
        folders: whether files in the folders directly in it are given as well, as ``folder/name``.
    """
    found: dict[str, float] = _kind(path).changed_in(path, folders)
    return {name: found[name] for name in sorted(found) if not _hidden(name)}


def folders_in(path: AnyPath) -> list[str]:
    """Names of the folders directly in a folder, hidden ones left out, sorted; none where there is no such folder."""
    return sorted(name for name in _kind(path).folders_in(path) if not name.startswith("."))


def partitions_in(path: AnyPath) -> list[str]:
    """Names of the folders in a folder that hold a record, that is, are whole; sorted, hidden ones left out."""
    return sorted(name for name in _kind(path).partitions_in(path, RECORD_FILE) if not name.startswith("."))


def partition_versions(path: AnyPath, names: Sequence[str]) -> dict[str, str]:
    """For each whole partition in a folder, a text that changes when its record or its files ``names`` do."""
    found: dict[str, str] = _kind(path).partition_versions(path, RECORD_FILE, names)
    return {name: found[name] for name in sorted(found) if not name.startswith(".")}


def names_below(path: AnyPath) -> list[str]:
    """Names of the files at any depth below a folder, from there on, hidden ones and folders left out; sorted."""
    names: list[str] = _kind(path).names_below(path)
    return sorted(name for name in names if not _hidden(name))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def files_named_by(path: AnyPath, record: bytes) -> AnyPath:
    """The folder that the files lie in that belong to ``record`` of the partition at ``path``: itself on a disk."""
    found: AnyPath = _kind(path).files_named_by(path, record)
    return found


def files_of(path: AnyPath) -> AnyPath:
    """The folder that the files of the partition at ``path`` lie in now: itself on a disk.

    Raises:
        MissingInput: it is not made.
    """
    found: AnyPath = _kind(path).files_of(path)
    return found


def local_copy(path: AnyPath) -> AbstractContextManager[Path]:
    """A path of this machine to read the file or plain folder at ``path`` by: itself, or a copy while the block runs.

    Raises:
        MissingInput: there is nothing to copy.
        StorageFailed: the copy does not fit on this machine's temporary disk.
    """
    found: AbstractContextManager[Path] = _kind(path).local_copy(path)
    return found


def local_folder(path: AnyPath, *names: str) -> AbstractContextManager[Path]:
    """A folder of this machine, named like ``path``, to read what :func:`whole_folder` put there.

    From an object store, files of one version are copied together with its record, and gone when the block ends. On a
    disk they are those that are there, which may be replaced between one read and the next.

    Args:
        path: as it was given to :func:`whole_folder`.
        names: the files that are needed, so that others need not be copied; all where none is named.

    Raises:
        MissingInput: in an object store there is no whole folder, or it lacks a file that is named.
        StorageFailed: the copy does not fit on this machine's temporary disk.
    """
    found: AbstractContextManager[Path] = _kind(path).local_folder(path, names)
    return found


def whole_file(path: AnyPath) -> AbstractContextManager[IO[bytes]]:
    """A binary file to write that appears at ``path`` only when the block ends well.

    On a disk: temp file, fsync, rename. In an object store: a temp file of this machine, put there in one request.

    Raises:
        StorageFailed: the disk is full or the folder is not writable; nothing is left behind.
    """
    file: AbstractContextManager[IO[bytes]] = _kind(path).whole_file(path)
    return file


def write_whole(path: SomePath, data: bytes) -> SomePath:
    """Writes ``data`` to ``path`` whole (see :func:`whole_file`) and returns ``path``."""
    _kind(path).put_bytes(path, data)
    return path


def move_whole(made: Path, path: AnyPath) -> None:
    """Moves a finished file of this machine to ``path``, whole; on a disk it must be one of the same disk.

    Raises:
        StorageFailed: the disk is full or the folder is not writable.
    """
    _kind(path).move_whole(made, path)


def whole_folder(path: AnyPath) -> AbstractContextManager[Path]:
    """An empty folder of this machine to fill that takes the place of ``path`` only when the block ends well.

    What was at ``path`` stays until then, and stays if the block fails. Read it back through :func:`local_folder`.

    On a disk it lies beside ``path`` under a hidden name and is swapped in by rename. What a killed process left
    half-filled is emptied by the next one; a second process at the same ``path`` waits. For an object store it is a
    temporary folder that must hold a :data:`RECORD_FILE` at the end; of two at once, the last one wins whole.

    Raises:
        StorageFailed: the disk is full or the folder is not writable.
    """
    folder: AbstractContextManager[Path] = _kind(path).whole_folder(path)
    return folder
