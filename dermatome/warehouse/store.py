"""The metrics store: one DuckDB file made whole from the Parquet files, which are the truth.

DuckDB lets one process write and then no other even read. So nothing ever writes the file people read: a new one is
made beside it and takes its place by rename. Whoever has the old one open keeps reading it; whoever opens the path gets
the new one; a crash leaves the old one; a repeat makes the same rows.

Reading a hundred thousand small files takes minutes, so the rows of partitions that have not changed are taken from the
old store. People query views; the tables behind them, in the schema `made`, say of which partition a row is.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from dermatome.errors import StorageFailed
from dermatome.storage.files import move_atomic, partition_versions
from dermatome.storage.layout import RECORD_FILE, DataRoot
from dermatome.warehouse.parts import PART, Batch, asset_batches, folder_batches
from dermatome.warehouse.table import Table
from dermatome.warehouse.tables import FAILURES, TABLES, VIEWS

_PREFIX = ".store-"
# What a killed build leaves; a living one takes seconds to minutes.
_LEFT_OVER_S = 3600.0


@dataclass(frozen=True)
class StoreSummary:
    """What was made.

    Attributes:
        path: of the store.
        rows: how many each table has.
        read: how many partitions were read from their files; the others came from the store before.
        kept: how many those are.
        missing: files that records vouch for and that are not there; their rows are not in the store.
    """

    path: Path
    rows: dict[str, int]
    read: int
    kept: int
    missing: tuple[str, ...]


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
                summary = _Build(root, connection, target).run()
            move_atomic(made, target)
    except (duckdb.Error, OSError) as error:
        raise StorageFailed(
            f"The metrics store {target} could not be made ({error}): mend or delete the file it names, or free disk."
        ) from error
    return summary


class _Build:
    """One new store on its way."""

    def __init__(self, root: DataRoot, connection: Any, target: Path) -> None:
        self._root, self._connection, self._target = root, connection, target
        self._missing: list[str] = []
        self._by_asset: dict[str, dict[str, str]] = {}
        for name, table in TABLES.items():
            self._by_asset.setdefault(table.asset, {})[table.file] = name

    def run(self) -> StoreSummary:
        self._declare()
        for batch in folder_batches(self._root, FAILURES, next(iter(self._by_asset[FAILURES]))):
            self._insert(FAILURES, batch)
        now = [
            {"asset": asset, "partition": partition, "version": version}
            for asset, names in self._by_asset.items()
            if asset != FAILURES
            for partition, version in partition_versions(
                self._root.folder(asset), [name for name in names if name != RECORD_FILE]
            ).items()
        ]
        self._connection.register("listed", pa.Table.from_pylist(now, _LISTED))
        self._connection.execute("create temp table now as select * from listed")
        kept = self._keep_unchanged()
        read = self._read_changed()
        for name, query in VIEWS.items():
            self._connection.execute(f"create view {name} as {query}")
        rows = {name: self._ask(f"select count(*) from {name}")[0][0] for name in TABLES}
        return StoreSummary(self._target, rows, read, kept, tuple(self._missing))

    def _declare(self) -> None:
        self._connection.execute("create schema made")
        self._connection.execute("create table made.layout as select ? as layout", [_layout()])
        self._connection.execute(
            "create table made.partitions (number bigint, asset varchar, partition varchar, version varchar)"
        )
        for name, table in TABLES.items():
            declared = ", ".join(f'"{column}" {kind}' for column, kind in table.all_columns.items())
            self._connection.execute(f"create table made.{name} ({declared}, {PART} bigint)")
            self._connection.execute(f"create view {name} as select * exclude ({PART}) from made.{name}")

    def _keep_unchanged(self) -> int:
        """Takes over the rows of partitions that are as they were; none from a store of another layout."""
        import duckdb

        with ExitStack() as stack:
            try:
                if not self._target.is_file():
                    return 0
                quoted = str(self._target).replace("'", "''")
                self._connection.execute(f"attach '{quoted}' as old (read_only)")
            except duckdb.Error:
                return 0  # there is none, or somebody writes into it or has damaged it: everything is read
            stack.callback(self._connection.execute, "detach old")
            try:
                if self._ask("select layout from old.made.layout") != [(_layout(),)]:
                    return 0
            except duckdb.CatalogException:  # an older version of Dermatome made it
                return 0
            self._connection.execute(
                "insert into made.partitions select o.* from old.made.partitions o "
                "join now using (asset, partition, version)"
            )
            for name, table in TABLES.items():
                if table.asset != FAILURES:
                    self._connection.execute(
                        f"insert into made.{name} select * from old.made.{name} "
                        f"where {PART} in (select number from made.partitions)"
                    )
        return int(self._ask("select count(*) from made.partitions")[0][0])

    def _read_changed(self) -> int:
        changed = self._ask("select * from now anti join made.partitions using (asset, partition) order by all")
        first = self._ask("select coalesce(max(number), 0) + 1 from made.partitions")[0][0]
        entered = []
        for asset, names in self._by_asset.items():
            numbers = {row[1]: first + i for i, row in enumerate(changed) if row[0] == asset}
            torn = set()
            for batch in asset_batches(self._root, asset, numbers, list(names)):
                self._insert(asset, batch)
                self._missing += [path for _, path in batch.missing]
                torn |= {partition for partition, _ in batch.missing}
            versions = {row[1]: row[2] for row in changed if row[0] == asset}
            entered += [
                # What was not whole is looked at again next time.
                {"number": number, "asset": asset, "partition": p, "version": "" if p in torn else versions[p]}
                for p, number in numbers.items()
            ]
        self._connection.register("entered", pa.Table.from_pylist(entered, _ENTERED))
        self._connection.execute("insert into made.partitions select * from entered")
        return len(changed)

    def _insert(self, asset: str, batch: Batch) -> None:
        for file, rows in batch.tables.items():
            name = self._by_asset[asset][file]
            self._connection.register("batch", rows)
            chosen = ", ".join(_columns(name, TABLES[name], rows.column_names))
            self._connection.execute(f"insert into made.{name} by name select {chosen} from batch")
            self._connection.unregister("batch")

    def _ask(self, query: str) -> list[Any]:
        rows: list[Any] = self._connection.execute(query).fetchall()
        return rows


_LISTED = pa.schema({"asset": pa.string(), "partition": pa.string(), "version": pa.string()})
_ENTERED = pa.schema({"number": pa.int64(), **{field.name: field.type for field in _LISTED}})


def _layout() -> str:
    """What the old store must have been made by for its rows to be the same."""
    return json.dumps({name: [table.asset, table.file, table.all_columns] for name, table in TABLES.items()})


def _columns(name: str, table: Table, found: list[str]) -> list[str]:
    """A table's columns out of those of its files, as SQL."""
    columns, chosen = table.all_columns, [PART]
    for column in found:
        public = table.key if table.key and column == "partition" else column.removeprefix("value_")
        if public in columns:
            chosen.append(f'"{column}" as "{public}"')
        elif column != PART and (column.startswith("value_") or not table.key):
            # A number nobody can query would be lost silently.
            raise StorageFailed(
                f"{table.asset}/*/{table.file} has a column {column!r} that the store's table {name} lacks: add it."
            )
    return chosen


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{_PREFIX}*"):
        try:
            if time.time() - left.stat().st_mtime > _LEFT_OVER_S:
                shutil.rmtree(left)
        except FileNotFoundError:  # another process sweeps, or is done with it
            continue
