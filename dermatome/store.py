"""The metrics store: one DuckDB file made whole from the Parquet files, which are the truth.

DuckDB lets one process write and then no other even read. So nothing ever writes the file people read: a new one is
made beside it and takes its place by rename. Whoever has the old one open keeps reading it; whoever opens the path gets
the new one; a crash leaves the old one; a repeat makes the same rows.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermatome.data_root import RECORD_FILE, DataRoot
from dermatome.errors import StorageFailed
from dermatome.store_tables import TABLES, VIEWS, Table

_PREFIX = ".store-"
# What a killed build leaves; a living one takes seconds to minutes.
_LEFT_OVER_S = 3600.0


@dataclass(frozen=True)
class StoreSummary:
    """The store's path and how many rows each table has."""

    path: Path
    rows: dict[str, int]


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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as folder:
            made = Path(folder) / target.name
            with duckdb.connect(str(made)) as connection:
                rows = {name: _fill(connection, name, table, root) for name, table in TABLES.items()}
                for name, query in VIEWS.items():
                    connection.execute(f"create view {name} as {query}")
            with made.open("rb") as file:
                os.fsync(file.fileno())
            made.replace(target)
    except (duckdb.Error, OSError) as error:
        raise StorageFailed(
            f"The metrics store {target} could not be made ({error}): mend or delete the file it names, or free disk."
        ) from error
    return StoreSummary(target, rows)


def _fill(connection: Any, name: str, table: Table, root: DataRoot) -> int:
    columns = table.all_columns
    declared = ", ".join(f'"{column}" {kind}' for column, kind in columns.items())
    connection.execute(f"create table {name} ({declared})")
    files = _finished(root, table)
    if not files:
        return 0
    source = "read_parquet(?, union_by_name = true)"
    found = [row[0] for row in connection.execute(f"describe select * from {source}", [files]).fetchall()]
    chosen = []
    for column in found:
        public = table.key if table.key and column == "partition" else column.removeprefix("value_")
        if public in columns:
            chosen.append(f'"{column}" as "{public}"')
        elif column.startswith("value_") or not table.key:
            # A number nobody can query would be lost silently.
            raise StorageFailed(f"{table.files} has a column {column!r} that the store's table {name} lacks: add it.")
    query = f"insert into {name} by name select {', '.join(chosen)} from {source}"
    connection.execute(query, [files])
    count: int = connection.execute(f"select count(*) from {name}").fetchone()[0]
    return count


def _finished(root: DataRoot, table: Table) -> list[str]:
    found = []
    for path in root.path.glob(table.files):
        hidden = any(part.startswith(".") for part in path.relative_to(root.path).parts)
        if not hidden and (not table.recorded or (path.parent / RECORD_FILE).is_file()):
            found.append(str(path))
    return sorted(found)


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{_PREFIX}*"):
        try:
            if time.time() - left.stat().st_mtime > _LEFT_OVER_S:
                shutil.rmtree(left)
        except FileNotFoundError:  # another process sweeps, or is done with it
            continue
