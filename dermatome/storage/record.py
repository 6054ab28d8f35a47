"""Records: a JSON file beside the results of every partition, and one for every partition that failed.

A record states the inputs, code and settings that a partition was computed from, and the size and sha256 of each of its
files. It is written last, so a partition with a record is complete. Its fingerprint covers everything that the results
depend on, so a run that is repeated after a crash recognizes finished partitions.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import to_json

from dermatome.errors import BadAnnotation, DermatomeError, FetchFailed, MissingInput, StorageFailed
from dermatome.storage.files import folders_in, read_bytes, sha256_file, write_atomic
from dermatome.storage.layout import RECORD_FILE, DataRoot

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Check:
    """The outcome of one check of one partition."""

    name: str
    passed: bool
    description: str
    values: dict[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class StageResult:
    """The result of a stage for one partition, whose files are already written.

    Attributes:
        outcome: Name of the outcome, such as ``cells`` or ``no_epidermis``.
        data_version: Hash of the results' content; equal results have equal versions.
        values: The stage's own values, which become columns of its table.
        message: The outcome in one sentence; empty if the name is enough.
        seconds: Wall time of each phase, s.
        checks: Outcomes of the stage's checks.
    """

    outcome: str
    data_version: str
    values: dict[str, Scalar]
    message: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class FileFacts:
    """Size and sha256 of a file of a partition."""

    bytes: int
    sha256: str


@cache
def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that affect results."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


_LIBRARIES = (
    "dermatome", "torch", "segmentation-models-pytorch", "cellpose", "numpy", "scipy", "scikit-image",
    "opencv-python-headless", "pillow",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StageRecord(StageResult):
    """A stage's result and what it was computed from.

    Attributes:
        asset: Name of the asset.
        partition: Partition key.
        fingerprint: See :func:`fingerprint`.
        code_version: Code version of the asset, settings included.
        inputs: Data version of each upstream asset.
        settings: Settings in force.
        run_id: Dagster run.
        made_at: Time of the record, UTC.
        libraries: See :func:`library_versions`.
        files: Each file of the partition's folder but the record, by its path in it; see :func:`file_facts`.
    """

    asset: str
    partition: str
    fingerprint: str
    code_version: str
    inputs: dict[str, str]
    settings: dict[str, Any]
    run_id: str = ""
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    libraries: dict[str, str] = field(default_factory=lambda: dict(library_versions()))
    files: dict[str, FileFacts] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        result: StageResult,
        *,
        code_version: str,
        inputs: Mapping[str, str],
        settings: Mapping[str, Any],
        **rest: Any,
    ) -> StageRecord:
        """The record of a result computed from ``inputs`` with ``settings``; ``rest`` are its other fields."""
        rest |= {"code_version": code_version, "inputs": dict(inputs), "settings": dict(settings)}
        return cls(**vars(result), fingerprint=fingerprint(code_version, inputs, settings), **rest)


def fingerprint(code_version: str, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """The sha256 of everything that results depend on: equal fingerprints mean equal results."""
    text = json.dumps([code_version, dict(inputs), dict(settings)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _plain(value: Any) -> Any:
    """A numpy number or array as a JSON value; anything else as text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _json(content: object) -> bytes:
    return to_json(content, indent=1, inf_nan_mode="constants", fallback=_plain)


_END = b"\n}"
_SEAL = b',\n "record_sha256": "%s"'
_SEALED = re.compile(re.escape(_SEAL).replace(b"%s", b"([^,]*)") + re.escape(_END) + b"$")


def _is_sealed(data: bytes) -> bool:
    """Whether a record is unchanged since it was written."""
    seal = _SEALED.search(data)
    return seal is not None and hashlib.sha256(data[: seal.start()]).hexdigest().encode() == seal[1]


def write_record(path: Path, record: StageRecord) -> None:
    """Writes the record as JSON, atomically. Its last field is the sha256 of the others."""
    text = _json(record).removesuffix(_END)
    write_atomic(path, text + _SEAL % hashlib.sha256(text).hexdigest().encode() + _END)


def read_record(path: Path) -> StageRecord | None:
    """The record at ``path``, or None if there is none.

    Raises:
        StorageFailed: The file is not a record.
    """
    try:
        data = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        record: StageRecord = _adapter(StageRecord).validate_json(data)
    except ValidationError as error:
        raise _unreadable(path, first_mistake(error)) from error
    if not _is_sealed(data):
        raise _unreadable(path, "it was changed after it was written")
    return record


def _unreadable(path: Path, reason: str) -> StorageFailed:
    return StorageFailed(
        f"The record {path} cannot be read ({reason}): delete its folder and materialize that partition again."
    )


def first_mistake(error: ValidationError) -> str:
    """The first mistake that pydantic found in a JSON file: its place and a description."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


Stated = TypeVar("Stated", bound=BaseModel)


def read_stated(path: Path | None, model: type[Stated], example: str) -> Stated:
    """Reads a JSON file that a user wrote; returns the model's defaults if there is none.

    Raises:
        BadAnnotation: it does not fit the model; the message shows the ``example``.
    """
    try:
        return model.model_validate(json.loads(path.read_bytes())) if path is not None and path.is_file() else model()
    except (ValueError, RecursionError) as error:
        mistake = first_mistake(error) if isinstance(error, ValidationError) else error
        raise BadAnnotation(f"{path} is not usable ({mistake}): write {example}.") from error


def _files_in(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files below a folder by relative path, without the record and hidden files."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files_in(Path(entry.path), f"{prefix}{entry.name}/")
            elif not entry.name.startswith(".") and prefix + entry.name != RECORD_FILE:
                yield prefix + entry.name, entry


def file_facts(folder: Path) -> dict[str, FileFacts]:
    """Size and sha256 of the files that a stage wrote into a partition's folder, for its record."""
    found = sorted((name, entry.path) for name, entry in _files_in(folder))
    return {name: FileFacts(Path(path).stat().st_size, sha256_file(Path(path))) for name, path in found}


def damage(
    folder: Path, record: StageRecord, *, hashes: bool = False, only: Iterable[str] | None = None
) -> dict[str, str]:
    """The files of a partition that differ from its record, each with how it differs.

    With ``hashes``, every file is read and its sha256 compared; otherwise only existence and size are checked, which
    takes one listing of the folder. ``only`` names the files to check; None checks all.
    """
    expected = {name: facts for name, facts in record.files.items() if only is None or name in only}
    sizes = {name: entry.stat().st_size for name, entry in _files_in(folder) if name in expected}
    found = {}
    for name, facts in expected.items():
        if name not in sizes:
            found[name] = "is missing"
        elif sizes[name] != facts.bytes:
            found[name] = f"has {sizes[name]} bytes, not {facts.bytes}"
        elif hashes and sha256_file(folder / name) != facts.sha256:
            found[name] = "has different content"
    return found


def verify_root(root: DataRoot) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Compares every file of every partition of a data root with the partition's record; all files are read.

    Yields:
        Asset, partition key, and how each damaged file differs, by its path in the partition's folder.
    """
    for asset in sorted(path.name for path in root.asset_folders()):
        partitions = set(root.partitions(asset))
        # Only folders of assets have records; the others hold files of users, downloads and state.
        for partition in sorted(folders_in(root.folder(asset)) if partitions else ()):
            folder = root.folder(asset, partition)
            try:
                record = read_record(folder / RECORD_FILE)
                found = {RECORD_FILE: "is missing"} if record is None else damage(folder, record, hashes=True)
            except (DermatomeError, OSError) as error:
                found = {RECORD_FILE: str(error)}
            yield asset, partition, found


def require_record(root: DataRoot, asset: str, partition: str, *read: str) -> StageRecord:
    """Returns the record of a partition, after a check of the files that will be read.

    ``read`` names these files: results computed from a file that was changed after it was written would otherwise pass
    for correct ones.

    Raises:
        MissingInput: The partition is not materialized.
        StorageFailed: One of these files is not the one that was written.
    """
    record = read_record(root.record(asset, partition))
    if record is None:
        raise MissingInput(f"{partition} has no {asset} yet: materialize {asset} for it first.")
    if read and (harmed := damage(root.folder(asset, partition), record, hashes=True, only=read)):
        name, how = next(iter(harmed.items()))
        raise StorageFailed(
            f"{name} in the {asset} of {partition} {how}: materialize {asset} for {partition} again, which restores it."
        )
    return record


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Failure:
    """Why and when a partition failed last.

    Attributes:
        asset: Name of the asset.
        partition: Partition key.
        error: The reason in one sentence.
        kind: Class of the exception.
        run_id: Dagster run.
        failed_at: Time of the failure, UTC.
        tries: Number of failures since the partition last succeeded. The first failure counts; later ones of the
            network or the disk do not, as they are not caused by the partition.
    """

    asset: str = ""
    partition: str = ""
    error: str = ""
    kind: str = ""
    run_id: str = ""
    failed_at: datetime = _LONG_AGO
    tries: int = 1


def write_failure(path: Path, *, asset: str, partition: str, error: str, kind: str, run_id: str) -> Failure:
    """Writes why a partition failed, and returns it; :func:`clear_failure` deletes it."""
    own = kind not in (FetchFailed.__name__, StorageFailed.__name__)
    tries = failure_of(path.read_bytes()).tries + own if path.is_file() else 1
    failure = Failure(asset, partition, error, kind, run_id, datetime.now(UTC), tries)
    write_atomic(path, _json(failure))
    return failure


def read_failures(root: DataRoot, asset: str) -> dict[str, Failure]:
    """The failures of an asset, by partition."""

    def read(partition: str) -> Failure | None:
        try:
            return failure_of(root.failure(asset, partition).read_bytes())
        except FileNotFoundError:  # the partition succeeded meanwhile
            return None

    partitions = sorted(root.failed(asset))
    with ThreadPoolExecutor(8) as pool:  # on NFS each file waits for the network
        found = zip(partitions, pool.map(read, partitions), strict=True)
        return {partition: failure for partition, failure in found if failure is not None}


def failure_of(data: bytes) -> Failure:
    """A failure from its file's content; if damaged, a failure of long ago, so that the partition is retried."""
    try:
        failure: Failure = _adapter(Failure).validate_json(data)
    except ValidationError:
        return Failure()
    return failure


def clear_failure(path: Path) -> None:
    """Deletes the record of an earlier failure."""
    path.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes an Arrow table as one Parquet file, atomically."""
    # Small files are read faster without compression and statistics, and the metrics store reads 100,000 of them.
    text = [field.name for field in table.schema if table.num_rows > 1 and pa.types.is_string(field.type)]
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=text or False, write_statistics=False)
    write_atomic(path, buffer.getvalue())


def content_version(parts: Iterable[bytes]) -> str:
    """A data version for the content of results: the first 32 hexadecimal digits of its sha256."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:32]
