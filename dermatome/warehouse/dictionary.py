"""The data dictionary: what each table, view and column of the metrics store means, from `dictionary.toml`."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files


@cache
def _dictionary() -> dict[str, dict[str, str]]:
    return tomllib.loads((files("dermatome.warehouse") / "dictionary.toml").read_text())


def table_meaning(table: str) -> str:
    """What one row of a table or view of the store is.

    Raises:
        KeyError: `dictionary.toml` has no such table.
    """
    return _dictionary()["tables"][table]


def column_meaning(table: str, column: str) -> str:
    """What a column means, its unit, and what null means.

    An entry ``table.column`` comes before ``column``, and that before the first pattern, such as ``iou_*``, that fits.

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
