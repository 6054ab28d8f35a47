"""The Parquet files that the metrics store is made of, read many at a time from wherever the data root is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dermatome.errors import StorageFailed
from dermatome.storage.files import SWAP_S, names_below, read_all
from dermatome.storage.layout import RECORD_FILE, DataRoot

_TOGETHER = 500
"""Partitions that are held in memory at once."""
PART = "part"
"""The column that says which partition, by number, a row is of."""

_Contents = dict[str, list[tuple[str, str, bytes]]]
"""By file name: partition, path and bytes of each file."""


@dataclass(frozen=True)
class Batch:
    """The rows of some partitions.

    Attributes:
        tables: Arrow table by file name, with the column :data:`PART`; what no partition has is left out.
        missing: partition and path of the files that ought to be there, as their partition has a record, and are not.
    """

    tables: dict[str, pa.Table]
    missing: tuple[tuple[str, str], ...] = ()


def asset_batches(root: DataRoot, asset: str, numbers: dict[str, int], files: Sequence[str]) -> Iterator[Batch]:
    """Reads ``files`` (the record may be one of them) of partitions of an asset.

    Args:
        root: the data root.
        asset: the asset.
        numbers: the partitions, and a number for each.
        files: names.

    Raises:
        StorageFailed: a file is no Parquet file, or those of one name do not fit together.
    """
    partitions = list(numbers)
    for start in range(0, len(partitions), _TOGETHER):
        found, missing = _read(root, asset, partitions[start : start + _TOGETHER], files)
        yield Batch({name: _joined(parts, numbers) for name, parts in found.items() if parts}, tuple(missing))


def folder_batches(root: DataRoot, folder: str, pattern: str) -> Iterator[Batch]:
    """Reads every Parquet file below a folder that has no records; one that is gone meanwhile is gone for good."""
    base = root.path / folder
    names = [name for name in names_below(base) if name.endswith(".parquet")]
    for start in range(0, len(names), _TOGETHER):
        some = names[start : start + _TOGETHER]
        contents = zip(some, read_all([base / name for name in some]), strict=True)
        parts = [(name, f"{base}/{name}", data) for name, data in contents if data is not None]
        if parts:
            yield Batch({pattern: _joined(parts, dict.fromkeys(some, 0))})


def _read(
    root: DataRoot, asset: str, partitions: Sequence[str], files: Sequence[str], *, again: bool = True
) -> tuple[_Contents, list[tuple[str, str]]]:
    """The files, and which are missing. A partition that is being swapped just now is read once more."""
    folders = {partition: root.folder(asset, partition) for partition in partitions}
    records = dict(zip(partitions, read_all([root.record(asset, p) for p in partitions]), strict=True))
    places = {
        (partition, name): folders[partition] / name
        for partition, record in records.items()
        if record is not None
        for name in files
        if name != RECORD_FILE
    }
    contents = dict(zip(places, read_all(list(places.values())), strict=True))
    torn = [p for p in partitions if records[p] is None or any(contents.get((p, name), b"") is None for name in files)]
    found: _Contents = {name: [] for name in files}
    missing: list[tuple[str, str]] = []
    if torn and again:
        time.sleep(SWAP_S)
        found, missing = _read(root, asset, torn, files, again=False)
    for partition in partitions:
        if partition in torn and again:
            continue
        for name in files:
            data = records[partition] if name == RECORD_FILE else contents.get((partition, name))
            path = f"{folders[partition]}/{name}"
            if data is None:
                missing.append((partition, path))
            else:
                found[name].append((partition, path, data))
    return found, missing


def _joined(parts: Sequence[tuple[str, str, bytes]], numbers: dict[str, int]) -> pa.Table:
    tables = []
    for _, path, data in parts:
        try:
            tables.append(pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False))
        except (pa.ArrowException, OSError) as error:
            raise StorageFailed(f"{path} is damaged ({error}): delete its folder and make it again.") from error
    try:
        # Numbers that are whole in one file and not in another become what holds both.
        joined = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise StorageFailed(
            f"{parts[0][1]} and files of other partitions do not fit together ({error}): make the odd ones again."
        ) from error
    of = np.repeat([numbers[partition] for partition, _, _ in parts], [table.num_rows for table in tables])
    return joined.append_column(PART, pa.array(of, pa.int64()))
