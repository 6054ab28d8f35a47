"""The one-row Parquet file beside every partition's results: what was made, from what, by which code and settings.

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


_JSON_FIELDS = ("inputs", "settings", "seconds", "libraries")


def write_record(path: Path, record: StageRecord) -> None:
    """Writes the record whole, its ``values`` as columns of their own.

    Raises:
        StorageFailed: the disk is full or the folder not writable.
    """
    row: dict[str, Any] = {
        name: getattr(record, name)
        for name in ("asset", "partition", "outcome", "message", "data_version", "fingerprint", "code_version")
    }
    row |= {"run_id": record.run_id, "made_at": record.made_at}
    row |= {name: json.dumps(getattr(record, name), sort_keys=True, default=str) for name in _JSON_FIELDS}
    row["checks"] = json.dumps([vars(check) for check in record.checks])
    # A column of nothing has no type, and files of one asset must agree on types: what is null is left out.
    row |= {f"value_{name}": value for name, value in record.values.items() if value is not None}
    write_table(path, pa.Table.from_pylist([row]))


def read_record(path: Path) -> StageRecord | None:
    """The record at ``path``, or None where there is none.

    Raises:
        StorageFailed: the file is there but is not a record.
    """
    try:
        data = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    try:
        row = pq.ParquetFile(pa.BufferReader(data)).read().to_pylist()[0]
        values = {name.removeprefix("value_"): row.pop(name) for name in list(row) if name.startswith("value_")}
        checks = tuple(Check(**check) for check in json.loads(row.pop("checks")))
        parsed = {name: json.loads(row.pop(name)) for name in _JSON_FIELDS}
        return StageRecord(**row, **parsed, values=values, checks=checks)
    except (OSError, pa.ArrowException, KeyError, IndexError, TypeError, ValueError) as error:
        raise StorageFailed(
            f"The record {path} cannot be read ({error}): delete its folder and make that partition again."
        ) from error


def require_record(root: DataRoot, asset: str, partition: str) -> StageRecord:
    """The record an asset left for a partition.

    Raises:
        MissingInput: it has not made that partition.
    """
    record = read_record(root.record(asset, partition))
    if record is None:
        raise MissingInput(f"{partition} has no {asset} yet: materialize {asset} for it first.")
    return record


@dataclass(frozen=True)
class Failure:
    """That a partition failed: when last, and how many times since it was made last.

    What a network or disk caused says nothing of the partition and is not counted; but the first failure always is.
    """

    failed_at: datetime
    tries: int


def write_failure(path: Path, *, asset: str, partition: str, error: str, kind: str, run_id: str) -> None:
    """Writes why a partition failed, once more; :func:`clear_failure` takes it back."""
    row = {"asset": asset, "partition": partition, "error": error, "kind": kind, "run_id": run_id}
    (before,) = read_all([path])
    own = kind not in (FetchFailed.__name__, StorageFailed.__name__)
    tries = _failure(before).tries + own if before is not None else 1
    write_table(path, pa.Table.from_pylist([row | {"failed_at": datetime.now(UTC), "tries": tries}]))


def read_failures(root: DataRoot, asset: str) -> dict[str, Failure]:
    """The partitions of an asset that failed last."""
    partitions = sorted(root.failed(asset))
    found = zip(partitions, read_all([root.failure(asset, partition) for partition in partitions]), strict=True)
    return {partition: _failure(data) for partition, data in found if data is not None}


def _failure(data: bytes) -> Failure:
    """A failure file's, or a first failure long ago where the file is damaged: such a partition is tried again."""
    try:
        (row,) = pq.ParquetFile(pa.BufferReader(data)).read(["failed_at", "tries"]).to_pylist()
        return Failure(**row)
    except (OSError, pa.ArrowException, TypeError, ValueError):
        return Failure(datetime.min.replace(tzinfo=UTC), 1)


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
