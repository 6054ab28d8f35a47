"""Rewrites the Parquet records of an earlier version as JSON: `python -m dermatome.storage.upgrade DATA`.

Results stay as they are and are recognised as before. It may be run again, and after it was interrupted.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dermatome.storage.layout import OLD_RECORD_FILE, RECORD_FILE
from dermatome.storage.record import Check, StageRecord, write_record


def upgrade(root: Path) -> tuple[int, list[Path]]:
    """Rewrites every record below ``root`` and deletes the notes of failures, which are written again by the next run.

    Returns:
        Number of records rewritten, and the folders whose record was damaged, which count as missing from now on.
    """
    rewritten, damaged = 0, []
    for old in sorted(root.glob(f"*/[!.]*/{OLD_RECORD_FILE}")):
        try:
            write_record(old.with_name(RECORD_FILE), _read_old(old))
        except (OSError, pa.ArrowException, KeyError, IndexError, TypeError, ValueError):
            damaged.append(old.parent)
        else:
            rewritten += 1
        old.unlink()
    for failure in root.glob("failures/*/*.parquet"):
        failure.unlink()
    return rewritten, damaged


def _read_old(path: Path) -> StageRecord:
    row = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read().to_pylist()[0]
    values = {name.removeprefix("value_"): row.pop(name) for name in list(row) if name.startswith("value_")}
    checks = tuple(Check(**check) for check in json.loads(row.pop("checks")))
    parsed = {name: json.loads(row.pop(name)) for name in ("inputs", "settings", "seconds", "libraries")}
    return StageRecord(**row, **parsed, values=values, checks=checks)


if __name__ == "__main__":
    count, unreadable = upgrade(Path(sys.argv[1]))
    sys.stdout.write(f"{count} records were rewritten.\n")
    for folder in unreadable:
        sys.stdout.write(f"The record of {folder} was damaged: materialize that partition again.\n")
