"""The metrics store: one DuckDB file made whole from the Parquet files, which are the truth.

DuckDB lets one process write and then no other even read. So nothing ever writes the file people read: a new one is
made beside it and takes its place by rename. Whoever has the old one open keeps reading it; whoever opens the path gets
the new one; a crash leaves the old one; a repeat makes the same rows.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermatome.data_root import DataRoot
from dermatome.errors import StorageFailed
from dermatome.files import move_whole
from dermatome.store_parts import Batch, asset_batches, folder_batches
from dermatome.store_tables import FAILURES, TABLES, VIEWS, Table

if TYPE_CHECKING:
    import pyarrow as pa

    from dermatome.files import AnyPath

_PREFIX = ".store-"
# What a killed build leaves; a living one takes seconds to minutes.
_LEFT_OVER_S = 3600.0


@dataclass(frozen=True)
class StoreSummary:
    """What was made.

    Attributes:
        path: of the store.
        rows: how many each table has.
        missing: files that records vouch for and that are not there; their rows are not in the store.
    """

    path: AnyPath
    rows: dict[str, int]
    missing: tuple[str, ...] = ()


def build_store(root: DataRoot, path: Path | None = None) -> StoreSummary:
    """Makes the DuckDB file from every Parquet file below ``root`` and puts it at ``path`` in one step.

    Args:
        root: the data root.
        path: where to; the root's own store where None.

    Raises:
        StorageFailed: a Parquet file cannot be read, or the disk is full; the store that was there stays.
    """
    import duckdb

    target = path or root.store
    # On a disk it is made beside its place, to be moved there by rename.
    beside = target.parent if isinstance(target, Path) else None
    try:
        if beside is not None:
            beside.mkdir(parents=True, exist_ok=True)
            _sweep(beside)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=beside) as folder:
            made = Path(folder) / target.name
            with duckdb.connect(str(made)) as connection:
                missing = _fill(connection, root)
                for name, query in VIEWS.items():
                    connection.execute(f"create view {name} as {query}")
                rows = {name: _count(connection, name) for name in TABLES}
            move_whole(made, target)
    except (duckdb.Error, OSError) as error:
        raise StorageFailed(
            f"The metrics store {target} could not be made ({error}): mend or delete the file it names, or free disk."
        ) from error
    return StoreSummary(target, rows, tuple(missing))


def _fill(connection: Any, root: DataRoot) -> list[str]:
    """Makes the tables and puts every row into them; the files that are missing."""
    by_asset: dict[str, dict[str, str]] = {}
    for name, table in TABLES.items():
        declared = ", ".join(f'"{column}" {kind}' for column, kind in table.all_columns.items())
        connection.execute(f"create table {name} ({declared})")
        by_asset.setdefault(table.asset, {})[table.file] = name
    missing: list[str] = []
    for asset, names in by_asset.items():
        batches: Iterable[Batch] = (
            folder_batches(root, asset, next(iter(names)))
            if asset == FAILURES
            else asset_batches(root, asset, list(names))
        )
        for batch in batches:
            missing += batch.missing
            for file, rows in batch.tables.items():
                _insert(connection, names[file], TABLES[names[file]], rows)
    return missing


def _insert(connection: Any, name: str, table: Table, rows: pa.Table) -> None:
    columns = table.all_columns
    chosen = []
    for column in rows.column_names:
        public = table.key if table.key and column == "partition" else column.removeprefix("value_")
        if public in columns:
            chosen.append(f'"{column}" as "{public}"')
        elif column.startswith("value_") or not table.key:
            # A number nobody can query would be lost silently.
            raise StorageFailed(
                f"{table.asset}/*/{table.file} has a column {column!r} that the store's table {name} lacks: add it."
            )
    connection.register("batch", rows)
    connection.execute(f"insert into {name} by name select {', '.join(chosen)} from batch")
    connection.unregister("batch")


def _count(connection: Any, name: str) -> int:
    count: int = connection.execute(f"select count(*) from {name}").fetchone()[0]
    return count


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{_PREFIX}*"):
        try:
            if time.time() - left.stat().st_mtime > _LEFT_OVER_S:
                shutil.rmtree(left)
        except FileNotFoundError:  # another process sweeps, or is done with it
            continue
