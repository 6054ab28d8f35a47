"""What a table of the metrics store is."""

from __future__ import annotations

from dataclasses import dataclass

_TEXT = "varchar"
_STAGE: dict[str, str] = {
    "outcome": "varchar",
    "message": "varchar",
    "data_version": "varchar",
    "fingerprint": "varchar",
    "code_version": "varchar",
    "inputs": "json",
    "settings": "json",
    "seconds": "json",
    "libraries": "json",
    "checks": "json",
    "run_id": "varchar",
    "made_at": "timestamptz",
}


@dataclass(frozen=True)
class Table:
    """One table of the store.

    Attributes:
        asset: whose partitions it is made of; of those without a record nothing counts.
        file: the Parquet file of each partition.
        columns: column → DuckDB type; what a file lacks is null.
        key: for tables made of records, what the partition is called; their `value_` columns lose that prefix.
    """

    asset: str
    file: str
    columns: dict[str, str]
    key: str | None = None

    @property
    def all_columns(self) -> dict[str, str]:
        """Its columns, with those that every record has where it is made of records."""
        return ({self.key: _TEXT} | _STAGE | self.columns) if self.key else self.columns
