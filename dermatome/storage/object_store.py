"""Files and folders in an object store (S3), which has neither rename nor locks, for `dermatome.storage.files`.

A partition is a set of objects below a version of its own, and one record that says which version counts:

    cell_masks/slide-1/record.parquet                  put last, in one request; its sha256 names the version
    cell_masks/slide-1/3f2a…/cells.npz, figure.png     that version's files, put before and never overwritten

So whoever reads the record finds the files that belong to it, a writer that dies leaves the earlier version in place,
and of two writers the one whose record comes last wins whole. What S3 must give: a request puts an object whole or not
at all, and a read after it sees it. Amazon's and MinIO's do.

Credentials, region and endpoint are botocore's own business (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, …).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dermatome.errors import MissingInput, StorageFailed
from dermatome.storage.files import RECORD_FILE
from dermatome.storage.s3 import told
from dermatome.storage.temporary import temporary_file, temporary_folder

if TYPE_CHECKING:
    from upath import UPath

# One request for each read: parts asked for one by one could be of two versions of an object.
_WHOLE = {"max_concurrency": 1}
_VERSION_LETTERS = 32
# A version without its record that is older was left by a writer that died.
_LEFT_OVER = timedelta(days=1)
_TRIES = 5
_SPARE_BYTES = 1 << 30


def read_bytes(path: UPath) -> bytes:
    """The object's bytes.

    Raises:
        FileNotFoundError: there is none.
        StorageFailed: the store cannot be asked.
    """
    with told("read", path):
        data: bytes = path.fs.cat_file(path.path, **_WHOLE)
        return data


def read_all(paths: Sequence[UPath]) -> list[bytes | None]:
    """See :func:`dermatome.storage.files.read_all`; many requests at once."""
    with told("read", paths[0]):
        found = paths[0].fs.cat([path.path for path in paths], on_error="return", **_WHOLE)
    results = []
    for path in paths:
        data = found[path.path]
        if isinstance(data, Exception) and not isinstance(data, FileNotFoundError):
            with told("read", path):
                raise data
        results.append(data if isinstance(data, bytes) else None)
    return results


def put_bytes(path: UPath, data: bytes) -> None:
    """Puts an object whole.

    Raises:
        StorageFailed: the store does not take it.
    """
    with told("write", path):
        path.fs.pipe_file(path.path, data)


def remove(path: UPath) -> None:
    """Deletes an object if it is there."""
    with told("delete", path):
        path.fs.rm_file(path.path)


def sizes_below(path: UPath) -> dict[str, dict[str, Any]]:
    """Every object below ``path``: its name from there on, and what the listing says of it (`size`, `LastModified`)."""
    with told("list", path):
        found = path.fs.find(path.path, detail=True)
    prefix = path.path.rstrip("/") + "/"
    # A name that ends with a slash is a folder that somebody made by hand in a browser.
    names = [name for name in found if name.startswith(prefix) and not name.endswith("/")]
    return {name.removeprefix(prefix): found[name] for name in names}


def names_in(path: UPath) -> list[str]:
    """Names of the objects directly below ``path``; none where there are none."""
    return list(_directly_in(path, "file"))


def changed_in(path: UPath, folders: bool) -> dict[str, float]:
    """See :func:`dermatome.storage.files.changed_in`; one listing, as a request for each folder would cost more."""
    found = sizes_below(path) if folders else _directly_in(path, "file")
    return {name: info["LastModified"].timestamp() for name, info in found.items() if name.count("/") < 2}


def folders_in(path: UPath) -> list[str]:
    """See :func:`dermatome.storage.files.folders_in`."""
    return list(_directly_in(path, "directory"))


def _directly_in(path: UPath, kind: str) -> dict[str, dict[str, Any]]:
    try:
        with told("list", path):
            found = path.fs.ls(path.path, detail=True)
    except FileNotFoundError:
        return {}
    prefix = path.path.rstrip("/") + "/"
    named = {info["name"].removeprefix(prefix).rstrip("/"): info for info in found if info["type"] == kind}
    return {name: info for name, info in named.items() if name and "/" not in name}


def partitions_in(path: UPath, mark: str) -> list[str]:
    """Names of the folders in ``path`` that hold an object ``mark``."""
    parts = [name.split("/") for name in sizes_below(path)]
    return [part[0] for part in parts if len(part) == 2 and part[1] == mark]


def partition_versions(path: UPath, mark: str, names: Sequence[str]) -> dict[str, str]:
    """See :func:`dermatome.storage.files.partition_versions`: the record's tag, as what it names never changes."""
    found = {}
    for name, info in sizes_below(path).items():
        partition, _, inside = name.partition("/")
        if inside == mark:
            found[partition] = str(info["ETag"])
    return found


def names_below(path: UPath) -> list[str]:
    """See :func:`dermatome.storage.files.names_below`."""
    return list(sizes_below(path))


def move_whole(made: Path, path: UPath) -> None:
    """See :func:`dermatome.storage.files.move_whole`."""
    with told("write", path):
        path.fs.put_file(str(made), path.path)
    made.unlink()


@contextmanager
def whole_file(path: UPath) -> Iterator[IO[bytes]]:
    """See :func:`dermatome.storage.files.whole_file`."""
    with temporary_file() as file:
        yield file
        file.flush()
        with told("write", path):
            path.fs.put_file(file.name, path.path)


@contextmanager
def whole_folder(path: UPath) -> Iterator[Path]:
    """See :func:`dermatome.storage.files.whole_folder`."""
    with temporary_folder() as temporary:
        folder = temporary / path.name
        folder.mkdir()
        yield folder
        _publish(folder, path)


def _publish(folder: Path, path: UPath) -> None:
    """Puts the files, then the record that names them, then deletes what the record before it named."""
    record = (folder / RECORD_FILE).read_bytes()
    version = _version(record)
    before = _record(path)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file != folder / RECORD_FILE]
    with told("write", path):
        if files:
            names = [f"{path.path}/{version}/{file.relative_to(folder).as_posix()}" for file in files]
            path.fs.put([str(file) for file in files], names)
        path.fs.pipe_file(f"{path.path}/{RECORD_FILE}", record)
    _sweep(path, version, None if before is None else _version(before))


def _sweep(path: UPath, current: str, before: str | None) -> None:
    """Deletes the version that was current before, and what writers that died left long ago.

    A version of another name may be a writer's at work now, or already current: it is left alone until it is old.
    """
    long_ago = datetime.now(UTC) - _LEFT_OVER
    gone = []
    for name, info in sizes_below(path).items():
        version, inside, _ = name.partition("/")
        if inside and version != current and (version == before or info["LastModified"] < long_ago):
            gone.append(f"{path.path}/{name}")
    if gone:
        with told("delete from", path):
            path.fs.rm(gone)


def files_of(path: UPath) -> UPath:
    """Where the files of the partition at ``path`` lie now.

    Raises:
        MissingInput: it has no record.
    """
    record = _record(path)
    if record is None:
        raise MissingInput(f"There is no {path}: make it with the stage before.")
    return files_named_by(path, record)


def files_named_by(path: UPath, record: bytes) -> UPath:
    """Where the files lie that belong to a record of the partition at ``path``."""
    found: UPath = path / _version(record)
    return found


def _version(record: bytes) -> str:
    # A record holds the moment it was made at, so no two writers have the same one.
    return hashlib.sha256(record).hexdigest()[:_VERSION_LETTERS]


def _record(path: UPath) -> bytes | None:
    try:
        return read_bytes(path / RECORD_FILE)
    except FileNotFoundError:
        return None


@contextmanager
def local_folder(path: UPath, names: Sequence[str]) -> Iterator[Path]:
    """See :func:`dermatome.storage.files.local_folder`."""
    with temporary_folder() as temporary:
        folder = temporary / path.name
        for _ in range(_TRIES):
            folder.mkdir()
            record = _record(path)
            if record is None:
                raise MissingInput(f"There is no {path}: make it with the stage before.")
            (folder / RECORD_FILE).write_bytes(record)
            missing = _copy(files_named_by(path, record), folder, names)
            if missing is None:
                break
            if _record(path) == record:
                raise MissingInput(f"{path} lacks its file {missing}: make it again.")
            shutil.rmtree(folder)  # it was made again meanwhile
        else:
            raise StorageFailed(f"{path} is made again faster than it can be read: see what makes it, and try again.")
        yield folder


@contextmanager
def local_copy(path: UPath) -> Iterator[Path]:
    """See :func:`dermatome.storage.files.local_copy`."""
    with temporary_folder() as temporary:
        copy = temporary / path.name
        try:
            with told("read", path):
                info = path.fs.info(path.path)
        except FileNotFoundError as error:
            raise MissingInput(f"There is no {path}: check the path, or make it with the stage before.") from error
        if info["type"] == "directory":
            copy.mkdir()
            missing = _copy(path, copy, ())
        else:
            missing = _fetch(path.parent, copy.parent, {path.name: int(info["size"])})
        if missing is not None:
            raise MissingInput(f"{path} was changed while it was read: run this again.")
        yield copy


def _copy(source: UPath, folder: Path, names: Sequence[str]) -> str | None:
    """Copies ``names``, or all, of the objects below ``source``; one that is missing, or None."""
    there = {name: int(info["size"]) for name, info in sizes_below(source).items()}
    for name in names:
        if name not in there:
            return name
    return _fetch(source, folder, {name: size for name, size in there.items() if not names or name in names})


def _fetch(source: UPath, folder: Path, sizes: dict[str, int]) -> str | None:
    total, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if total > free - _SPARE_BYTES:
        raise StorageFailed(
            f"Reading {source} takes {total / 1e9:.1f} GB for a while, and {folder.parent} has {free / 1e9:.1f} GB "
            "free: set TMPDIR to a larger disk."
        )
    for name in sizes:
        if any(part in ("", ".", "..") for part in name.split("/")):
            raise StorageFailed(f"{source} holds an object {name[:80]!r}, which no file can be called: delete it.")
    targets = [folder / name for name in sizes]
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with told("read", source):
            source.fs.get([f"{source.path}/{name}" for name in sizes], [str(target) for target in targets], **_WHOLE)
    except FileNotFoundError:
        return next((t.name for t in targets if not t.is_file()), source.name)
    return None
