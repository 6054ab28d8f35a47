"""The data dictionary: the meaning of each table, view and column of the metrics store, from `dictionary.toml`."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files


@cache
def _dictionary() -> dict[str, dict[str, str]]:
    return tomllib.loads((files("dermatome.warehouse") / "dictionary.toml").read_text())


def table_meaning(table: str) -> str:
    """The meaning of one row of a table or view of the store.

    Raises:
        KeyError: `dictionary.toml` has no such table.
    """
    return _dictionary()["tables"][table]


def column_meaning(table: str, column: str) -> str:
    """The meaning of a column, with its unit and the meaning of null.

    An entry ``table.column`` has priority over ``column``, and that over the first matching pattern, such as ``iou_*``.

    Raises:
        KeyError: `dictionary.toml` has no entry for the column.
    """
    entries = _dictionary()["columns"]
    for name in (f"{table}.{column}", column):
        if name in entries:
            return entries[name]
    for pattern, meaning in entries.items():
        if "." not in pattern and fnmatchcase(column, pattern):
            return meaning
    raise KeyError(f"dictionary.toml has no meaning for the column {table}.{column}: add it.")
