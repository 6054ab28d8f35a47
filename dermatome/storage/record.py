"""The JSON file beside every partition's results: what was made, from what, by which code and settings.

It is written last, so a partition whose record is there is whole; and it carries a fingerprint of everything the
results depend on, so a run that starts again after a crash can tell what is already done.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from dermatome.errors import FetchFailed, MissingInput, StorageFailed
from dermatome.storage.files import read_all, read_bytes, write_atomic
from dermatome.storage.layout import DataRoot

if TYPE_CHECKING:
    from pathlib import Path


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
    """What a stage made for one partition; its files are written already.

    Attributes:
        outcome: a named outcome, such as ``cells`` or ``no_epidermis``.
        data_version: a hash of the results' content: the same results, the same version.
        values: the stage's own columns.
        message: the outcome in one sentence; empty where the name says all.
        seconds: wall time by phase, s.
        checks: outcomes of the stage's checks.
    """

    outcome: str
    data_version: str
    values: dict[str, Scalar]
    message: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()


@cache
def library_versions() -> dict[str, str]:
    """Versions of Python and the libraries that decide numbers."""
    found = {"python": platform.python_version()}
    for name in (
        "dermatome",
        "torch",
        "segmentation-models-pytorch",
        "cellpose",
        "numpy",
        "scipy",
        "scikit-image",
        "opencv-python-headless",
        "pillow",
    ):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class StageRecord(StageResult):
    """A stage's result and what it was made of.

    Attributes:
        asset: asset name.
        partition: partition key.
        fingerprint: see :func:`fingerprint`.
        code_version: of the asset, settings included.
        inputs: data version of each upstream asset used.
        settings: the settings in force.
        run_id: the Dagster run.
        made_at: UTC.
        libraries: versions of the libraries that matter to the numbers.
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


def fingerprint(code_version: str, inputs: Mapping[str, str], settings: Mapping[str, Any]) -> str:
    """A sha256 over all that results depend on: the same fingerprint, the same results."""
    text = json.dumps([code_version, dict(inputs), dict(settings)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _plain(value: Any) -> Any:
    """What JSON can hold of a numpy number or array; a text for anything else."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _write_json(path: Path, content: object) -> None:
    write_atomic(path, to_json(content, indent=1, inf_nan_mode="constants", fallback=_plain))


def write_record(path: Path, record: StageRecord) -> None:
    """Writes the record as JSON, atomically.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    _write_json(path, record)


def read_record(path: Path) -> StageRecord | None:
    """The record at ``path``, or None if there is none.

    Raises:
        StorageFailed: the file is not a record.
    """
    try:
        data = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        record: StageRecord = _adapter(StageRecord).validate_json(data)
    except ValidationError as error:
        raise StorageFailed(
            f"The record {path} cannot be read ({_reason(error)}): delete its folder and materialize that partition "
            "again."
        ) from error
    return record


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def require_record(root: DataRoot, asset: str, partition: str) -> StageRecord:
    """The record an asset left for a partition.

    Raises:
        MissingInput: it has not made that partition.
    """
    record = read_record(root.record(asset, partition))
    if record is None:
        raise MissingInput(f"{partition} has no {asset} yet: materialize {asset} for it first.")
    return record


_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Failure:
    """Why and when a partition failed last.

    Attributes:
        asset: asset name.
        partition: partition key.
        error: the reason in one sentence.
        kind: class of the exception.
        run_id: the Dagster run.
        failed_at: UTC.
        tries: number of failures since the partition succeeded last. Failures of the network or the disk say nothing
            about the partition and are not counted; but the first failure always is.
    """

    asset: str = ""
    partition: str = ""
    error: str = ""
    kind: str = ""
    run_id: str = ""
    failed_at: datetime = _LONG_AGO
    tries: int = 1


def write_failure(path: Path, *, asset: str, partition: str, error: str, kind: str, run_id: str) -> None:
    """Writes why a partition failed; :func:`clear_failure` deletes it.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    (before,) = read_all([path])
    own = kind not in (FetchFailed.__name__, StorageFailed.__name__)
    tries = 1 if before is None else failure_of(before).tries + own
    _write_json(path, Failure(asset, partition, error, kind, run_id, datetime.now(UTC), tries))


def read_failures(root: DataRoot, asset: str) -> dict[str, Failure]:
    """By partition, the failures of an asset."""
    partitions = sorted(root.failed(asset))
    found = zip(partitions, read_all([root.failure(asset, partition) for partition in partitions]), strict=True)
    return {partition: failure_of(data) for partition, data in found if data is not None}


def failure_of(data: bytes) -> Failure:
    """A failure from its file's content, or one long ago if that is damaged, so that the partition is tried again."""
    try:
        failure: Failure = _adapter(Failure).validate_json(data)
    except ValidationError:
        return Failure()
    return failure


def clear_failure(path: Path) -> None:
    """Forgets an earlier failure."""
    path.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes an Arrow table as one Parquet file, whole.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    # What is small is read faster plain, and the store reads a hundred thousand of these files.
    text = [field.name for field in table.schema if table.num_rows > 1 and pa.types.is_string(field.type)]
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="none", use_dictionary=text or False, write_statistics=False)
    write_atomic(path, buffer.getvalue())


def content_version(parts: Iterable[bytes]) -> str:
    """A data version from the content of results: sha256, first 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()[:32]
