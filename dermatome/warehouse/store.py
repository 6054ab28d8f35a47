"""The metrics store: one DuckDB file that is filled from the records and Parquet files below the data root.

DuckDB lets one process write to a file, and then no other process can even read it. So a build never writes to the file
that users read: it fills a new file beside it and moves that into place. Readers of the old file keep it, later readers
get the new one, and after a crash the old one is still there.

The new file starts as a copy of the old store, and only rows of files that have changed since are replaced. The table
`stored.files` lists the files with path, modification time and size. Users query the views in the schema `main`; the
tables behind them, in the schema `stored`, have one more column, the number of the file that a row comes from.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from dermatome.errors import DermatomeError, StorageFailed
from dermatome.storage.layout import FAILURES, DataRoot
from dermatome.storage.record import failure_of, read_record
from dermatome.warehouse.dictionary import column_meaning, table_meaning
from dermatome.warehouse.tables import RECORD_COLUMNS, TABLES, UNREADABLE, VIEWS, Table, view_definition

_log = logging.getLogger(__name__)
_BATCH = 500
"""Number of files that are read together, which limits memory."""
_PREFIX = ".store-"
_LEFT_OVER_S = 3600.0
_SCHEMA = json.dumps([2, {name: [table.asset, table.file, table.columns] for name, table in TABLES.items()}])
"""What a store must state to be the start of the next; raise the number when `stored` changes its form."""
_LISTED = pa.schema({"table_name": pa.string(), "path": pa.string(), "mtime_ns": pa.int64(), "bytes": pa.int64()})
_FILES = pa.schema({"file_id": pa.int64()} | {field.name: field.type for field in _LISTED})
_UNREADABLE = pa.schema({"path": pa.string(), "error": pa.string()})


@dataclass(frozen=True)
class StoreSummary:
    """The result of a build.

    Attributes:
        path: Path of the store.
        rows: Number of rows of each table.
        read: Number of files that were read.
        kept: Number of unchanged files whose rows were copied from the old store.
        unreadable: Reason for each file whose rows are missing from the store, by path below the data root.
        undeclared: Columns, as `table.column`, that files have but `dermatome.warehouse.tables` does not declare.
    """

    path: Path
    rows: dict[str, int]
    read: int
    kept: int
    unreadable: dict[str, str]
    undeclared: tuple[str, ...]


def build_store(root: DataRoot, path: Path | None = None) -> StoreSummary:
    """Fills a new DuckDB file from the data root and moves it to ``path``.

    A file that cannot be read is left out, and listed in the table `unreadable_files`.

    Raises:
        StorageFailed: The store cannot be written, for example because the disk is full. The old store stays.
    """
    import duckdb

    target = path or root.store
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as folder:
            try:
                new = Path(folder) / f"copied-{target.name}"
                _copy_old(target, new)
                summary = _build(root, new, target)
            except duckdb.Error as error:
                _log.warning("The old metrics store cannot be used (%s): all files are read again.", error)
                new = Path(folder) / target.name
                summary = _build(root, new, target)
            # The write-ahead log of a session that wrote to the old file does not fit the new file, and DuckDB refuses
            # to open a file whose log does not fit.
            log = target.with_name(f"{target.name}.wal")
            log.unlink(missing_ok=True)
            with new.open("rb") as built:
                os.fsync(built.fileno())
            new.replace(target)
            log.unlink(missing_ok=True)
    except (duckdb.Error, OSError) as error:
        raise StorageFailed(
            f"The metrics store {target} could not be built ({error}): free disk space or fix what the error names."
        ) from error
    return summary


def _build(root: DataRoot, new: Path, target: Path) -> StoreSummary:
    import duckdb

    with duckdb.connect(str(new)) as connection:
        return _Build(root, connection, target).run()


def _copy_old(old: Path, new: Path) -> None:
    """Copies the old store, if there is one with the same schema.

    Raises:
        duckdb.Error: Another process writes to it, another version of Dermatome built it, or it is damaged.
    """
    import duckdb

    if not old.is_file():
        return
    # A reader keeps writers out until the copy is done.
    with duckdb.connect(str(old), read_only=True) as reader:
        if reader.execute("from stored.schema").fetchall() == [(_SCHEMA,)]:
            shutil.copyfile(old, new)


@dataclass(frozen=True)
class Described:
    """A table or view of a store.

    Attributes:
        rows: Number of its rows.
        columns: Name, type in DuckDB and meaning of each column; the meaning of an undeclared column is None.
    """

    rows: int
    columns: list[tuple[str, str, str | None]]


def describe_store(path: Path) -> dict[str, Described]:
    """Describes each table and then each view of a store."""
    import duckdb

    described = {}
    with duckdb.connect(str(path), read_only=True) as store:
        for name in (*TABLES, UNREADABLE, *VIEWS):
            ((rows,),) = store.execute(f"select count(*) from {name}").fetchall()
            columns = store.execute(
                "select column_name, data_type, comment from duckdb_columns() "
                "where schema_name = 'main' and table_name = ? order by column_index",
                [name],
            ).fetchall()
            described[name] = Described(rows, columns)
    return described


class _Build:
    """One build: the connection to the new file, and the problems found on the way."""

    def __init__(self, root: DataRoot, connection: Any, target: Path) -> None:
        self._root, self._connection, self._target = root, connection, target
        self._unreadable: dict[str, str] = {}

    def run(self) -> StoreSummary:
        execute = self._connection.execute
        self._connection.register("listed", _table(self._listed(), _LISTED))
        execute("create schema if not exists stored")
        execute("create table if not exists stored.schema as select ? as text", [_SCHEMA])
        self._connection.register("no_files", _FILES.empty_table())
        execute("create table if not exists stored.files as from no_files")
        execute("create table if not exists stored.undeclared (name varchar)")
        for name, table in TABLES.items():
            execute(f"create table if not exists stored.{name} ({table.columns}, file_id bigint)")
        same = "using (table_name, path, mtime_ns, bytes)"
        execute(f"create temp table gone as select file_id from stored.files anti join listed {same}")
        if self._ask("from gone limit 1"):
            for name in ("files", *TABLES):
                execute(f"delete from stored.{name} where file_id in (from gone)")
        ((kept, last),) = self._ask("select count(*), coalesce(max(file_id), 0) from stored.files")
        changed = self._ask(f"from listed anti join stored.files {same} order by table_name, path")
        read = []
        for name, table in TABLES.items():
            files = {last + n: file for n, file in enumerate(changed, 1) if file[0] == name}
            self._fill(name, table, {file_id: path for file_id, (_, path, *_) in files.items()})
            read += [(file_id, *file) for file_id, file in files.items() if file[1] not in self._unreadable]
        self._connection.register("read", _table(read, _FILES))
        execute("insert into stored.files from read")
        self._connection.register("unreadable", _table(sorted(self._unreadable.items()), _UNREADABLE))
        execute(f"create or replace table {UNREADABLE} as from unreadable")
        for name in TABLES:
            execute(f"create or replace view {name} as select * exclude (file_id) from stored.{name}")
        for name in VIEWS:
            execute(view_definition(name))
        self._comment()
        rows = {name: self._ask(f"select count(*) from {name}")[0][0] for name in TABLES}
        return StoreSummary(self._target, rows, len(read), kept, self._unreadable, self._undeclared())

    def _undeclared(self) -> tuple[str, ...]:
        return tuple(name for (name,) in self._ask("from stored.undeclared order by name"))

    def _comment(self) -> None:
        """Stores the meaning of each table, view and column in the store itself, as comments."""
        own = "schema_name = 'main' and database_name = current_database() and not internal"
        ours, undeclared = {*TABLES, *VIEWS, UNREADABLE}, self._undeclared()
        meanings = {f"table {UNREADABLE}": table_meaning(UNREADABLE)}
        meanings |= {f"view {name}": table_meaning(name) for name in (*TABLES, *VIEWS)}
        for table, column in self._ask(f"select table_name, column_name from duckdb_columns() where {own}"):
            if table in ours and f"{table}.{column}" not in undeclared:
                meanings[f'column {table}."{column}"'] = column_meaning(table, column)
        quoted = {what: meaning.replace("'", "''") for what, meaning in meanings.items()}
        comments = (f"comment on {what} is '{meaning}'" for what, meaning in quoted.items())
        self._connection.execute(f"begin; {'; '.join(comments)}; commit")

    def _listed(self) -> list[tuple[str, str, int, int]]:
        """Table, path below the data root, modification time and size of every file that belongs in the store."""
        # A study has a million files. Path objects take three times as long as strings.
        paths, base = [], str(self._root.path)
        partitions = {asset: self._root.partitions(asset) for asset in {table.asset for table in TABLES.values()}}
        for name, table in TABLES.items():
            if table.asset == FAILURES:
                found = (self._root.path / FAILURES).glob("*/[!.]*.json")
                paths += [(name, file.relative_to(self._root.path).as_posix()) for file in found]
            else:
                paths += [(name, f"{table.asset}/{key}/{table.file}") for key in partitions[table.asset]]
        listed = []
        for name, path in paths:
            try:
                stat = os.stat(f"{base}/{path}")  # noqa: PTH116
                listed.append((name, path, stat.st_mtime_ns, stat.st_size))
            except FileNotFoundError:
                if name != FAILURES:  # A failure is deleted as soon as the partition succeeds.
                    self._unreadable[path] = "The file is missing."
        return listed

    def _fill(self, name: str, table: Table, files: dict[int, str]) -> None:
        """Inserts the rows of ``files`` (path by number); splits a batch that fails until the bad file is found."""
        import duckdb

        numbers = list(files)
        batches = [numbers[start : start + _BATCH] for start in range(0, len(numbers), _BATCH)]
        while batches:
            batch = batches.pop(0)
            try:
                self._connection.register("rows", self._rows(table, {number: files[number] for number in batch}))
                self._insert(name, "from rows")
            # Errors that a file's content can cause. Others, such as duckdb.OperationalError for a full disk, end the
            # build.
            except (
                DermatomeError, OSError, ValueError, TypeError, OverflowError, pa.ArrowException, duckdb.DataError,
                duckdb.ProgrammingError, duckdb.NotSupportedError,
            ) as error:  # fmt: skip
                if len(batch) == 1:
                    self._unreadable[files[batch[0]]] = str(error)
                else:
                    batches[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]

    def _rows(self, table: Table, files: dict[int, str]) -> pa.Table:
        """The rows of some files, with the column `file_id`.

        Raises:
            StorageFailed: A file is not of the expected kind, or no longer exists.
        """
        paths = {self._root.path / path: number for number, path in files.items()}
        if table.asset == FAILURES:
            rows = [vars(failure_of(path.read_bytes())) | {"file_id": number} for path, number in paths.items()]
            return pa.Table.from_pylist(rows)
        if table.key:
            rows = [_record_row(path, table.key) | {"file_id": number} for path, number in paths.items()]
            columns = {column: [row.get(column) for row in rows] for row in rows for column in row}
            return pa.table({column: values for column, values in columns.items() if set(values) != {None}})
        import duckdb

        query = "from read_parquet(?, union_by_name => true, filename => 'file_path')"
        try:
            with duckdb.connect() as reader:
                read = reader.sql(query, params=[[glob.escape(str(path)) for path in paths]]).to_arrow_table()
        except duckdb.Error as error:
            raise StorageFailed(str(error)) from error
        position = pc.index_in(read["file_path"], pa.array(map(str, paths)))
        ours = [name for name in read.column_names if name.lower() in ("file_path", "file_id")]
        return read.drop_columns(ours).append_column("file_id", pa.array(paths.values()).take(position))

    def _insert(self, name: str, query: str) -> None:
        """Inserts rows by column name; columns that the table lacks are added to it."""
        known = {row[0].lower() for row in self._ask(f"describe stored.{name}")}
        for column, kind, *_ in self._ask(f"describe {query}"):
            if column.lower() not in known:
                quoted = column.replace('"', '""')
                self._connection.execute(f'alter table stored.{name} add column "{quoted}" {kind}')
                self._connection.execute("insert into stored.undeclared values (?)", [f"{name}.{column}"])
        self._connection.execute(f"insert into stored.{name} by name {query}")

    def _ask(self, query: str) -> list[Any]:
        rows: list[Any] = self._connection.execute(query).fetchall()
        return rows


def _table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [[]] * len(schema)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def _record_row(path: Path, key: str) -> dict[str, Any]:
    """A record as a row: its own values, and what it was computed from as JSON.

    Raises:
        StorageFailed: The record is damaged or no longer exists.
    """
    record = read_record(path)
    if record is None:
        raise StorageFailed(f"There is no {path}.")
    row = {key: record.partition} | record.values
    for column in (definition.split()[0] for definition in RECORD_COLUMNS.split(",")):
        value = getattr(record, column)
        plain = isinstance(value, str | datetime)
        row[column] = value if plain else json.dumps(value, sort_keys=True, default=vars)
    return row


def _sweep(folder: Path) -> None:
    """Deletes what killed builds left behind; a living build takes seconds to minutes."""
    for left in folder.glob(f"{_PREFIX}*"):
        try:
            if time.time() - left.stat().st_mtime > _LEFT_OVER_S:
                shutil.rmtree(left)
        except FileNotFoundError:  # Another process has just deleted or moved it.
            continue
