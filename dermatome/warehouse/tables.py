"""The tables of the metrics store: for each, the asset and file that it is filled from, and its columns.

Values that are not declared here are stored too: their column is added with the type that it has in the file. Declare
them nevertheless, so that the column exists without such a file and its type does not depend on the first file.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files

from dermatome.storage.layout import RECORD_FILE


@dataclass(frozen=True)
class Table:
    """One table of the store.

    Attributes:
        asset: Asset whose partitions fill the table. Partitions without a record do not count.
        file: File in each partition's folder that holds the rows.
        columns: Column definitions in SQL.
        key: Name of the column with the partition key, if the table is filled from records, one row for each.
    """

    asset: str
    file: str
    columns: str
    key: str | None


_DECLARED = tomllib.loads((files("dermatome.warehouse") / "tables.toml").read_text())
RECORD_COLUMNS = " ".join(_DECLARED["records"]["columns"].split())
"""Columns of all records; see :class:`dermatome.storage.record.StageRecord`."""


def _table(asset: str, columns: str, file: str = RECORD_FILE, key: str | None = None) -> Table:
    of_records = f"{key} varchar, {RECORD_COLUMNS}, " if key else ""
    return Table(asset, file, of_records + " ".join(columns.split()), key)


TABLES = {name: _table(**stated) for name, stated in _DECLARED["tables"].items()}

VIEWS = (
    "links", "lineage", "dab_by_patient", "dab_profile_by_gene", "cells_by_slide", "slides_not_from_champion",
    "cells_not_from_champion", "training_lineage", "nuclei_lineage",
)  # fmt: skip
"""Names of the files in `sql/`, each of which creates one view; later views may use earlier ones."""
UNREADABLE = "unreadable_files"
"""Name of the table of files that could not be read."""


def view_definition(view: str) -> str:
    """The SQL statement that creates a view."""
    return (files("dermatome.warehouse") / "sql" / f"{view}.sql").read_text()


def read_by_view(view: str) -> list[str]:
    """Names of the tables and views that a view reads from."""
    named = re.findall(r"\b(?:from|join)\s+(\w+)", view_definition(view))
    return sorted(({*TABLES, *VIEWS} - {view}) & set(named))
