"""The Parquet files that the metrics store is made of, read many at a time from wherever the data root is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from dermatome.data_root import RECORD_FILE, DataRoot
from dermatome.disk import SWAP_S
from dermatome.errors import StorageFailed
from dermatome.files import files_named_by, names_below, read_all

_TOGETHER = 500
"""Partitions that are held in memory at once."""


@dataclass
class Batch:
    """The rows of some partitions.

    Attributes:
        tables: Arrow table by file name; what no partition has is left out.
        missing: files that ought to be there, as their partition has a record, and are not.
    """

    tables: dict[str, pa.Table] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def asset_batches(root: DataRoot, asset: str, files: Sequence[str]) -> Iterator[Batch]:
    """Reads ``files`` (the record may be one of them) of every whole partition of an asset.

    Raises:
        StorageFailed: a file is no Parquet file, or those of one name do not fit together.
    """
    partitions = root.made(asset)
    for start in range(0, len(partitions), _TOGETHER):
        found, missing = _read(root, asset, partitions[start : start + _TOGETHER], files)
        tables = {name: _joined(data, f"{root.folder(asset)}/*/{name}") for name, data in found.items() if data}
        yield Batch(tables, missing)


def folder_batches(root: DataRoot, name: str, pattern: str) -> Iterator[Batch]:
    """Reads every Parquet file below a folder that has no records; one that is gone meanwhile is gone for good."""
    folder = root.path / name
    names = [found for found in names_below(folder) if found.endswith(".parquet")]
    for start in range(0, len(names), _TOGETHER):
        paths = [folder / found for found in names[start : start + _TOGETHER]]
        data = {str(path): data for path, data in zip(paths, read_all(paths), strict=True) if data is not None}
        if data:
            yield Batch({pattern: _joined(data, f"{folder}/{pattern}")})


def _read(
    root: DataRoot, asset: str, partitions: Sequence[str], files: Sequence[str], *, again: bool = True
) -> tuple[dict[str, dict[str, bytes]], list[str]]:
    """For each file name, its bytes by path; and what is missing. What is being swapped just now is read once more."""
    folders = {partition: root.folder(asset, partition) for partition in partitions}
    records = dict(zip(partitions, read_all([root.record(asset, p) for p in partitions]), strict=True))
    places = {
        (partition, name): files_named_by(folders[partition], record) / name
        for partition, record in records.items()
        if record is not None
        for name in files
        if name != RECORD_FILE
    }
    contents = dict(zip(places, read_all(list(places.values())), strict=True))
    torn = [p for p in partitions if records[p] is None or any(contents.get((p, name), b"") is None for name in files)]
    found: dict[str, dict[str, bytes]] = {name: {} for name in files}
    missing: list[str] = []
    if torn and again:
        time.sleep(SWAP_S)
        found, missing = _read(root, asset, torn, files, again=False)
    for partition in partitions:
        if partition in torn and again:
            continue
        for name in files:
            data = records[partition] if name == RECORD_FILE else contents.get((partition, name))
            if data is None:
                missing.append(f"{folders[partition]}/{name}")
            else:
                found[name][f"{folders[partition]}/{name}"] = data
    return found, missing


def _joined(contents: Mapping[str, bytes], what: str) -> pa.Table:
    tables = []
    for path, data in contents.items():
        try:
            tables.append(pq.ParquetFile(pa.BufferReader(data)).read())
        except (pa.ArrowException, OSError) as error:
            raise StorageFailed(f"{path} is damaged ({error}): delete its folder and make it again.") from error
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise StorageFailed(f"The files {what} do not fit together ({error}): make the odd ones again.") from error
